-- Finalisers run wherever Lua allocates, also in the middle of a call. One that uses or closes the
-- client must neither break that call nor crash, at whichever allocation it runs.
local testkit = require "testkit"
local stub = require "stub.client"

-- under valgrind each point takes long, so only a sample of them is tried
local STRIDE = os.getenv "ICPTOKEN_VALGRIND" and 5 or 1
local MAX_POINTS = 400

-- An object without a reference, whose finaliser calls body.
local function make_garbage(body)
  if newproxy then -- luacheck: ignore 113
    getmetatable(newproxy(true)).__gc = body -- luacheck: ignore 113
  else
    setmetatable({}, { __gc = body })
  end
end

-- the collectors of the others take steps too small to finish a cycle in a short call
if _VERSION ~= "Lua 5.4" and _VERSION ~= "Lua 5.2" then
  describe("a finaliser in the middle of a call", function()
    it("is tested on Lua 5.4 and 5.2", function() pending "the collector takes many steps a cycle" end)
  end)
  return
end

describe("a finaliser in the middle of a call", function()
  local icp, icptoken, options
  local pause, multiplier
  local scopes = {}
  for i = 1, 20 do scopes[i] = ("repository:n/%d:pull"):format(i) end

  setup(function()
    icp = stub.share()
    icptoken = require "icptoken"
    options = { url = ("http://127.0.0.1:%d/image-manager/api/v1/auth/token"):format(icp.ports.http),
      id_token = icp.id_token, retries = 0, headers = { ["X-One"] = "1" },
      resolve = { ["mycluster.icp:8443"] = "127.0.0.1" } }
    -- a step of the collector is a whole cycle
    pause, multiplier = collectgarbage("setpause", 100), collectgarbage("setstepmul", 1000000)
  end)

  teardown(function()
    collectgarbage("setpause", pause)
    collectgarbage("setstepmul", multiplier)
    icp:stop()
  end)

  before_each(function()
    icp:reset()
    icp:plan { token = "abc.def-123", times = "forever" }
  end)

  -- Makes the call again and again, with a finaliser that calls disturb at one allocation after the
  -- other. Returns how often it was reached before the call returned.
  local function disturb_everywhere(prepare, disturb, call, check)
    local n, came = 1, 0
    while true do
      local subject = prepare()
      local running, inside = false, false
      collectgarbage()
      make_garbage(function()
        inside = inside or running
        disturb(subject)
      end)
      local results = { testkit.with_collecting_lua(n, function()
        running = true
        local value, message, code = call(subject)
        running = false
        return value, message, code
      end) }
      running = false
      check(subject, results[2], results[3], results[4], results[5])
      if inside then came = came + 1 end
      if not results[1] then return came end
      n = n + STRIDE
      assert.is_true(n < MAX_POINTS, "the call does not finish")
    end
  end

  -- the possible results of a call on a client that others use and close
  local function check_result(client, ok, value, message, code)
    if not ok then
      assert.is_truthy(tostring(value):find("in the middle of a call", 1, true), tostring(value))
    elseif value == nil then
      assert.equal("closed", code, message)
    end
    client:close()
  end

  local request = { scope = scopes, service = "s", account = "a", offline_token = true }
  local calls = {
    fetch = function(client) return client:fetch(request) end,
    token = function(client) return client:token(request) end,
    ["token of its own"] = function(client) return client:token() end,
    fetch_all = function(client) return client:fetch_all { request, { scope = "a" } } end,
    invalidate = function(client) return client:invalidate "abc.def-123" end,
    stats = function(client) return client:stats() end,
    tostring = function(client) return tostring(client) end,
  }
  -- they allocate too little for a collection in every runtime
  local small = { ["token of its own"] = true, invalidate = true, stats = true, tostring = true }

  local function make_client()
    local client = assert(icptoken.new(options))
    assert(client:token())
    return client
  end

  for name, call in pairs(calls) do
    it("may close the client: " .. name, function()
      local came = disturb_everywhere(make_client, function(client) pcall(client.close, client) end, call,
        check_result)
      assert.is_true(came > 0 or small[name] or false, "no finaliser came")
    end)

    it("may use the client: " .. name, function()
      local came = disturb_everywhere(make_client, function(client)
        pcall(client.token, client, { scope = "other", account = "someone" })
        pcall(client.fetch, client, { scope = "other" })
        pcall(client.invalidate, client, "abc.def-123")
      end, call, check_result)
      assert.is_true(came > 0 or small[name] or false, "no finaliser came")
      local whole = table.concat(scopes, " ")
      for _, sent in ipairs(icp:requests()) do
        local asked = table.concat(sent.query.scope or {}, " ")
        assert.is_true(asked == "" or asked == "a" or asked == "other" or asked == whole, "asked for " .. asked)
        assert.equal(asked == whole, sent.query.offline_token ~= nil)
      end
    end)
  end

  it("may change the tables of options while they are read", function()
    local function prepare()
      local given = {}
      for name, value in pairs(options) do given[name] = value end
      given.headers = { ["X-First"] = "1" }
      return given
    end
    local came = disturb_everywhere(prepare, function(given)
      for i = 1, 200 do given.headers["X-" .. i] = "x" end
    end, function(given) return icptoken.new(given) end, function(_, ok, value)
      if ok then value:close() else assert.is_string(value) end
    end)
    assert.is_true(came > 0)
  end)
end)
