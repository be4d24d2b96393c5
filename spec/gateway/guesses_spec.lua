-- How many passwords of a user a client may try, before a directory would lock the account.

local gateway_bed = require "support.gateway_bed"
local gateway_probe = require "support.gateway_probe"
local load = require "support.load"
local mime = require "mime"

local LIMIT = 4
local GUESSES = 40

local LOCATIONS = gateway_probe.LOCATIONS .. [[
  location = /login { content_by_lua_block { gateway:login() } }
  location = /later {
    content_by_lua_block {
      -- a quarter of an hour later nothing but these records has expired
      local dict, records = ngx.shared.icptoken, 0
      for _, name in ipairs(dict:get_keys(0)) do
        if name:sub(1, 1) == "v" then
          dict:set(name, ("\0"):rep(16) .. dict:get(name):sub(17))
          records = records + 1
        end
      end
      ngx.print(records)
    }
  }
]]

local bed, gate

setup(function()
  bed = gateway_bed.open()
  gate = bed:start { workers = 1, locations = LOCATIONS, gateway = [[client_address = "http_x_client", timeout = 60,
    challenge = "bearer", realm = "http://localhost/login", path = "/image-manager/api/v1/auth/token",
    error_ttl = 0.05]] }
end)
teardown(function() gateway_bed.close(bed) end)
before_each(function()
  bed.stub:reset()
  bed.stub:set { users = { joe = "right", ann = "right", bob = "right" } }
  load.request(gate.port, { target = "/empty" })
end)

local function make_request(password, options)
  options = options or {}
  return { target = options.target or "/v2/image/manifests/1", headers = {
    Authorization = "Basic " .. mime.b64((options.user or "joe") .. ":" .. password),
    ["X-Client"] = options.client or "office" } }
end

local function try(...)
  return load.request(gate.port, make_request(...))
end

-- Tries so many wrong passwords, one after the other, all of them new ones.
local tried = 0
local function guess(count, options)
  local answers = {}
  for i = 1, count do
    tried = tried + 1
    answers[i] = try("wrong" .. tried, options)
  end
  return answers
end

local function assert_limited(answer)
  assert.equal(401, answer.status, answer.body)
  local code, detail, message = gateway_bed.read_error(answer)
  assert.same({ "UNAUTHORIZED", "too_many_passwords" }, { code, detail })
  assert.matches("too many wrong passwords", message)
end

describe("a client that guesses a user's password", function()
  it("has no more than max_passwords of them sent to the cluster", function()
    local answers = guess(LIMIT + 3)
    for i, answer in ipairs(answers) do
      if i > LIMIT then
        assert_limited(answer)
      else
        assert.equal("unauthorized", (select(2, gateway_bed.read_error(answer))))
      end
    end
    assert.equal(LIMIT, #bed.stub:requests())
    assert_limited(try "right")
    assert.equal(LIMIT, #bed.stub:requests())
  end)

  for where, target in pairs { ["in requests"] = "/v2/image/manifests/1", ["at /login"] = "/login" } do
    it("has no more sent if many come at once " .. where, function()
      bed.stub:plan { status = 401, delay = { before = 0.1 }, times = "forever" }
      local answers = load.run(gate.port, GUESSES, function(i)
        return make_request("wrong" .. i, { target = target })
      end)
      assert.same({ [401] = GUESSES }, load.count(answers))
      assert.equal(LIMIT, #bed.stub:requests())
    end)
  end

  it("has no more sent if it tries at different places and spellings of the name", function()
    guess(LIMIT / 2, { target = "/login" })
    guess(LIMIT / 2, { user = "JOE" })
    assert_limited(try "other")
    assert_limited(try("other", { user = " Joe " }))
    assert_limited(try("other", { target = "/login" }))
    assert.equal(LIMIT, #bed.stub:requests())
  end)

  it("keeps nobody from working, from logging in elsewhere, or under another name", function()
    assert.equal(200, try("right", { client = "home" }).status)
    assert_limited(guess(LIMIT + 1)[LIMIT + 1])
    assert.equal(200, try("right", { target = "/v2/new/manifests/1" }).status)
    assert_limited(guess(LIMIT + 1, { user = "ann", client = "elsewhere" })[LIMIT + 1])
    assert.equal(200, try("right", { user = "ann" }).status)
    assert.equal(200, try("right", { user = "bob", client = "elsewhere" }).status)
  end)

  it("may go on once one was right", function()
    guess(LIMIT - 1)
    assert.equal(200, try "right".status)
    guess(LIMIT + 1)
    assert.equal(LIMIT - 1 + 1 + LIMIT, #bed.stub:requests())
  end)

  it("may go on once one was right, although what it wanted was denied", function()
    guess(LIMIT - 1)
    bed.stub:plan { status = 403 }
    assert.equal("forbidden", (select(2, gateway_bed.read_error(try "right"))))
    guess(LIMIT + 1)
    assert.equal(LIMIT - 1 + 1 + LIMIT, #bed.stub:requests())
  end)

  it("may go on after a quarter of an hour", function()
    guess(LIMIT)
    assert_limited(try "right")
    assert.equal("1", load.request(gate.port, { target = "/later" }).body)
    assert.equal(200, try "right".status)
  end)

  it("may try the same ones again, each after error_ttl", function()
    try "wrong again"
    guess(LIMIT - 1)
    assert_limited(try "other")
    gateway_bed.await("another token request", function()
      assert.equal(401, try "wrong again".status)
      return #bed.stub:requests() == LIMIT + 1
    end)
  end)

  it("does not fill the dict with what it makes up, and gets no further than a thousand of them", function()
    local TRIES, MAX_TRIES, MAX_RECORDS = 3000, 1024, 16
    bed.stub:plan { status = 401, body = "", times = "forever" }
    local answers = load.run(gate.port, TRIES, function(i) return make_request("wrong", { user = "user" .. i }) end, 50,
      true)
    assert.same({ [401] = TRIES }, load.count(answers))
    local sent = #bed.stub:requests()
    assert.is_true(sent <= MAX_TRIES and sent > MAX_TRIES / 2, sent .. " token requests")
    assert.is_true(tonumber(load.request(gate.port, { target = "/later" }).body) <= MAX_RECORDS)
  end)

  it("is not limited where the cluster fails", function()
    bed.stub:plan { status = 500, times = LIMIT }
    for _ = 1, LIMIT do assert.equal(502, try "right".status) end
    assert.equal(200, try "right".status)
  end)

  it("is not limited with max_passwords = false", function()
    local free = bed:start { workers = 1, gateway = "max_passwords = false" }
    for i = 1, 2 * LIMIT do assert.equal(401, load.request(free.port, make_request("wrong" .. i)).status) end
    assert.equal(2 * LIMIT, #bed.stub:requests())
  end)
end)
