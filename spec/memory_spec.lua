-- Every allocation fails in turn, Lua's and libcurl's, under every public function: no crash, no
-- wrong token, nothing of ours left behind, and the client works afterwards.
local testkit = require "testkit"
local make_jwt = require "support.cases".make_jwt
local stub = require "support.stub"

-- A sweep takes every so many-th point. Under valgrind each point costs seconds, so there is no sweep of all.
local SWEEPS = { { stride = 7, tag = " #short", name = "failing allocations" },
  { stride = 1, tag = " #deep", name = "every failing allocation" } }
if os.getenv "ICPTOKEN_VALGRIND" then SWEEPS[2] = nil end
local MOST_POINTS = 20000

describe("when memory runs out", function()
  local icp, icptoken, options

  setup(function()
    icp = stub.share()
    icptoken = require "icptoken"
    options = { host = "localhost", port = icp.ports.h1, cacert = icp.ca, id_token = icp.id_token,
      service = "token-service", scope = "repository:a/b:pull", retries = 0, timeout = 20,
      headers = { ["X-One"] = "1", ["X-Two"] = "2" },
      resolve = { ["mycluster.icp:8443"] = "127.0.0.1" } }
  end)

  teardown(function()
    icp:stop()
  end)

  before_each(function()
    icp:reset()
    icp:plan { token = "abc.def-123", times = "forever" }
  end)

  local function is_memory_error(message)
    return type(message) == "string" and message:find("not enough memory", 1, true) ~= nil
  end

  -- What a call may give when an allocation failed; other codes would be a lie. localhost has two addresses, and the
  -- stub's port refuses connections at ::1. Where memory ran out for 127.0.0.1, libcurl 8.14 tells of the other address
  -- alone, CURLE_COULDNT_CONNECT with ECONNREFUSED, and of memory nothing.
  local honest = { no_memory = true, resolve = true, network = true }
  local COULDNT_CONNECT = 7

  local function is_honest(code, message, details)
    return honest[code] or code == "connect" and details.curl_code == COULDNT_CONNECT
      and message:find("connection refused", 1, true) ~= nil
  end

  -- Judges one point of a sweep: true when the lack of memory surfaced.
  local function judge(ok, value, message, code, details)
    if not ok then
      assert.is_true(is_memory_error(value), "raised " .. tostring(value))
      return true
    end
    if value ~= nil then return false end
    assert.is_string(message)
    assert.is_true(is_honest(code, message, details) or false, tostring(code) .. ": " .. tostring(message))
    assert.is_true(details == nil or type(details) == "table")
    return true
  end

  local function report(name, points, surfaced)
    io.stdout:write(string.format("  sweep %-42s %5d points failed, %5d surfaced\n", name, points,
      surfaced))
  end

  -- Fails every stride-th point until one is not reached. subject() gives the function to call and one
  -- to call afterwards with its results, which cleans up and checks.
  local function sweep(name, failing, subject, stride)
    local points, surfaced, n = 0, 0, 1
    while true do
      local call, afterwards = subject()
      local results = { failing(n, call) }
      if not results[1] then
        afterwards(results[3])
        break
      end
      points = points + 1
      if judge(results[2], results[3], results[4], results[5], results[6]) then
        surfaced = surfaced + 1
      end
      afterwards(results[2] and results[3] or nil)
      n = n + stride
      assert.is_true(n < MOST_POINTS, name .. " never ends")
    end
    report(name, points, surfaced)
    assert.is_true(points > 0, name .. " failed no point")
    return points, surfaced
  end

  local function assert_token(token)
    assert.equal("abc.def-123", token.token)
    assert.equal(1800, token.expires_in)
  end

  local function fetch_well(client)
    local token, message = client:fetch()
    assert.is_table(token, message)
    assert_token(token)
  end

  -- the subjects: each gives the call and what is to be done after it
  local function subject_new()
    return function() return icptoken.new(options) end,
      function(client)
        if client then
          fetch_well(client)
          client:close()
        end
      end
  end

  local function subject_one_shot()
    return function() return icptoken.fetch(options) end,
      function(token) if token then assert_token(token) end end
  end

  local function subject_kept()
    local client = assert(icptoken.new(options))
    fetch_well(client)
    return function() return client:fetch() end,
      function(token)
        if token then assert_token(token) end
        fetch_well(client)
        client:close()
      end
  end

  local function subject_first()
    local client = assert(icptoken.new(options))
    return function() return client:fetch() end,
      function(token)
        if token then assert_token(token) end
        fetch_well(client)
        client:close()
      end
  end

  local function subject_request()
    local client = assert(icptoken.new(options))
    fetch_well(client)
    local request = { scope = { "repository:x/y:pull,push", "registry:catalog:*" },
      username = icp.username, password = icp.password, account = "me", timeout = 60 }
    return function() return client:fetch(request) end,
      function(token)
        if token then assert_token(token) end
        fetch_well(client)
        client:close()
      end
  end

  local function subject_refused()
    local client = assert(icptoken.new(options))
    icp:reset()
    icp:plan({ status = 403, body = [[{"errors":[{"code":"DENIED","message":"no"}]}]] },
      { token = "abc.def-123", times = "forever" })
    return function()
      local token, message, code, details = client:fetch()
      if token then return token end
      if code == "forbidden" then return { refused = details } end
      return nil, message, code, details
    end, function()
      icp:reset() -- the order is still there when no request was sent
      icp:plan { token = "abc.def-123", times = "forever" }
      fetch_well(client)
      client:close()
    end
  end

  local function subject_rest()
    local jwt = make_jwt '{"sub":"admin","exp":1512021261.25,"iat":1512019461,"list":[0.5,-1.5e2,null]}'
    local client = assert(icptoken.new(options))
    fetch_well(client)
    return function()
      local decoded, message, code, details = icptoken.decode(jwt)
      if not decoded then return nil, message, code, details end
      local stats = client:stats()
      return { decoded, stats, tostring(client) }
    end, function()
      fetch_well(client)
      client:close()
      client:close()
    end
  end

  -- closing needs no memory: it goes well at every point
  local function subject_close()
    local client = assert(icptoken.new(options))
    fetch_well(client)
    return function()
      client:close()
      return true
    end, function(closed)
      assert.is_true(closed)
      assert.equal("closed", (select(3, client:fetch())))
    end
  end

  local function subject_collect()
    do
      local client = assert(icptoken.new(options))
      fetch_well(client)
    end
    return function()
      collectgarbage()
      return true
    end
  end

  local function with(changes)
    local changed = {}
    for name, value in pairs(options) do changed[name] = value end
    for name, value in pairs(changes) do changed[name] = value or nil end
    return changed
  end

  -- Whether ID tokens of earlier log-ins are still accepted or not, the stub is as before.
  local function plan_anew(order)
    icp:reset()
    order = order or {}
    order.token, order.times = "abc.def-123", "forever"
    icp:plan(order)
  end

  local function subject_token()
    local client = assert(icptoken.new(options))
    return function() return client:token() end,
      function(token)
        if token then assert_token(token) end
        assert_token(assert(client:token()))
        client:close()
      end
  end

  local function subject_token_of_request()
    local client = assert(icptoken.new(options))
    local request = { scope = { "a:b:c", "d:e:f" }, account = "me" }
    return function() return client:token(request) end,
      function(token)
        if token then assert_token(token) end
        assert_token(assert(client:token(request)))
        assert.equal("cached", (select(3, client:token(request))))
        client:close()
      end
  end

  local function subject_token_cached()
    local client = assert(icptoken.new(options))
    local request = { scope = { "a:b:c", "d:e:f" } }
    local kept = assert(client:token(request))
    return function() return client:token(request) end,
      function(token)
        if token then assert.equal(kept, token) end
        assert.equal(kept, (client:token(request)))
        client:close()
      end
  end

  -- A token is to be renewed at 70 % of its life, which is too long to wait for at each point. So many of them grow
  -- old together. Gives a subject and a function that tells how many renewals were tried.
  local function make_subject_renewal(stride)
    local at_once, life = 60, 5
    if stride > 1 and not os.getenv "ICPTOKEN_VALGRIND" then at_once, life = 10, 2 end
    local client, ready, last, refreshes = nil, 0, 0, 0

    local function make_ready()
      if client then
        refreshes = refreshes + client:stats().refreshes
        client:close()
      end
      client, ready = assert(icptoken.new(options)), at_once
      plan_anew { expires_in = life }
      for n = 1, at_once do last = assert(client:token { scope = "a:b" .. n .. ":c" }) end
      local before = testkit.monotonic()
      repeat
        testkit.sleep(0.02)
      until testkit.monotonic() - before > life * 0.72
      plan_anew()
    end

    return function()
      if ready == 0 then make_ready() end
      local request = { scope = "a:b" .. ready .. ":c" }
      ready = ready - 1
      return function() return client:token(request) end,
        function(token)
          if token then assert.equal(last.token, token.token) end
          assert.equal("abc.def-123", assert(client:token(request)).token)
        end
    end, function() return refreshes + client:stats().refreshes end
  end

  local function subject_fetch_all()
    local client = assert(icptoken.new(with { parallel = 2 }))
    local requests = { { scope = "a:b:c" }, {}, { scope = "d:e:f", account = "me" } }
    local tokens, errors
    return function()
      local code, details
      tokens, errors, code, details = client:fetch_all(requests)
      if tokens == nil then return nil, errors, code, details end
      for n = 1, 3 do
        if not tokens[n] then return nil, errors[n].message, errors[n].code, errors[n] end
      end
      return tokens
    end, function()
      for n = 1, tokens and 3 or 0 do
        if tokens[n] then
          assert_token(tokens[n])
        else
          assert.is_true(is_honest(errors[n].code, errors[n].message, errors[n]), errors[n].code)
        end
      end
      tokens, errors = client:fetch_all(requests)
      assert.is_nil(errors)
      assert.equal(3, #tokens)
      fetch_well(client)
      client:close()
    end
  end

  local function login_options()
    return { host = "localhost", port = icp.ports.h1, cacert = icp.ca, username = icp.username,
      password = icp.password, retries = 0, timeout = 20 }
  end

  local function subject_login()
    local credential = login_options()
    return function() return icptoken.login(credential) end,
      function(answer)
        if answer then
          assert.equal("admin", icptoken.decode(answer.id_token).claims.sub)
          assert.equal(43199, answer.expires_in)
        end
        assert(icptoken.login(credential))
      end
  end

  local function new_with_login()
    return assert(icptoken.new(with { id_token = false,
      login = { username = icp.username, password = icp.password } }))
  end

  local function subject_with_login()
    local client = new_with_login()
    return function() return client:fetch() end,
      function(token)
        if token then assert_token(token) end
        fetch_well(client)
        client:close()
      end
  end

  local function subject_new_login()
    local client = new_with_login()
    fetch_well(client)
    plan_anew()
    return function() return client:fetch() end,
      function(token)
        if token then assert_token(token) end
        fetch_well(client)
        client:close()
      end
  end

  local function subject_new_login_of_many()
    local client = new_with_login()
    fetch_well(client)
    plan_anew()
    return function()
      local tokens, errors, code, details = client:fetch_all { {}, {}, {} }
      if tokens == nil then return nil, errors, code, details end
      for n = 1, 3 do -- one that comes too late for the new ID token is refused
        if not tokens[n] and errors[n].code ~= "unauthorized" then
          return nil, errors[n].message, errors[n].code, errors[n]
        end
      end
      return tokens
    end, function()
      fetch_well(client)
      client:close()
    end
  end

  local function subject_function()
    local client = assert(icptoken.new(with { id_token = function() return icp.id_token end }))
    return function() return client:fetch() end,
      function(token)
        if token then assert_token(token) end
        fetch_well(client)
        client:close()
      end
  end

  local function subject_pipes()
    local path = os.tmpname()
    os.remove(path)
    assert(testkit.mkfifo(path))
    local writer = assert(testkit.spawn { "sh", "-c", ("while cat %s >%s; do :; done"):format(icp.ca, path),
      stdin = "/dev/null", stderr = "/dev/null", env = { LD_PRELOAD = false } })
    local client = assert(icptoken.new(with { cacert = path }))
    return function() return client:fetch() end,
      function(token)
        if token then assert_token(token) end
        fetch_well(client)
        client:close()
        testkit.kill(writer, "KILL")
        testkit.waitpid(writer)
        os.remove(path)
      end
  end

  local function subject_challenge()
    local value = [[Basic realm="x", Bearer realm="a\"b",service="c",scope="d e",error="f"]]
    return function() return icptoken.challenge(value) end,
      function(challenge)
        if challenge then
          assert.same({ realm = 'a"b', service = "c", scope = "d e", error = "f" }, challenge)
        end
      end
  end

  local function define_sweeps(whose, failing, cases)
    for _, each in ipairs(SWEEPS) do
      -- LuaJIT's short run under valgrind is of Lua's allocations alone
      local tag = (whose == "Lua" or each.tag ~= " #short") and each.tag or ""
      for _, case in ipairs(cases) do
        it(("survives %s in %s%s"):format(each.name, case[1], tag), function()
          local _, surfaced = sweep(whose .. ", " .. case[1], failing, case[2], each.stride)
          assert.is_true(surfaced > 0)
        end)
      end

      it(("survives %s in client:token that renews%s"):format(each.name, each.tag == " #deep" and tag or ""), function()
        local subject, count = make_subject_renewal(each.stride)
        sweep(whose .. ", client:token that renews", failing, subject, each.stride)
        assert.is_true(count() > 0)
      end)
    end
  end

  describe("for Lua", function()
    local cases = {
      { "client:token", subject_token }, { "client:token with a request", subject_token_of_request },
      { "client:token, cached", subject_token_cached }, { "client:fetch_all", subject_fetch_all },
      { "icptoken.login", subject_login },
      { "client:fetch with a log-in", subject_with_login }, { "a log-in that ended", subject_new_login },
      { "a log-in that ended, for many", subject_new_login_of_many },
      { "client:fetch with a function", subject_function }, { "challenge", subject_challenge },
      { "client:fetch with a pipe", subject_pipes },
      { "new", subject_new }, { "icptoken.fetch", subject_one_shot },
      { "client:fetch, kept connection", subject_kept }, { "client:fetch with a request", subject_request },
      { "client:fetch that is refused", subject_refused }, { "decode, stats, tostring", subject_rest },
    }
    define_sweeps("Lua", testkit.with_failing_lua, cases)

    it("forgets a token without any memory", function()
      local client = assert(icptoken.new(options))
      local kept = assert(client:token { scope = "a:b:c" })
      local _, ok, found = testkit.with_failing_lua(1, client.invalidate, client, kept.token)
      assert.is_true(ok, found)
      assert.is_true(found)
      assert.equal("fresh", (select(3, client:token { scope = "a:b:c" })))
      client:close()
    end)

    it("is not asked for any by client:token on a cached token", function()
      local client = assert(icptoken.new(options))
      local kept = assert(client:token())
      assert.equal(kept, (client:token()))
      local count, _, ok, token, second, source = testkit.count_lua(client.token, client)
      assert.is_true(ok)
      assert.equal(0, count)
      assert.equal(kept, token)
      assert.is_nil(second)
      assert.equal("cached", source)
      client:close()
    end)

    it("closes without any memory", function()
      local call, afterwards = subject_close()
      local _, ok, closed = testkit.with_failing_lua(1, call)
      assert.is_true(ok)
      afterwards(closed)
    end)

    -- Lua 5.2 itself needs memory to call a finaliser, and says so
    it("collects without any memory", function()
      local _, ok, collected = testkit.with_failing_lua(1, (subject_collect()))
      assert.is_true(ok or (_VERSION == "Lua 5.2" and is_memory_error(collected)), collected)
    end)
  end)

  describe("for libcurl", function()
    local cases = {
      { "new", subject_new }, { "icptoken.fetch", subject_one_shot },
      { "the first client:fetch", subject_first }, { "client:fetch, kept connection", subject_kept },
      { "client:fetch with a request", subject_request },
      { "client:fetch that is refused", subject_refused },
      { "client:token", subject_token }, { "client:token with a request", subject_token_of_request },
      { "client:fetch_all", subject_fetch_all }, { "icptoken.login", subject_login },
      { "client:fetch with a log-in", subject_with_login }, { "a log-in that ended", subject_new_login },
      { "a log-in that ended, for many", subject_new_login_of_many },
      { "client:fetch with a function", subject_function }, { "client:fetch with a pipe", subject_pipes },
    }
    define_sweeps("libcurl", testkit.with_failing_curl, cases)

    it("closes without any memory", function()
      local call, afterwards = subject_close()
      local _, ok, closed = testkit.with_failing_curl(1, call)
      assert.is_true(ok)
      afterwards(closed)
    end)

    it("has nothing outstanding once its clients are gone", function()
      local function work()
        local client = assert(icptoken.new(options))
        for n = 1, 25 do testkit.with_failing_curl(n, function() return client:fetch() end) end
        fetch_well(client)
        client = nil -- luacheck: ignore 311
        collectgarbage()
        collectgarbage()
      end
      work()
      local blocks = testkit.curl_outstanding()
      for _ = 1, 5 do work() end
      assert.equal(blocks, (testkit.curl_outstanding()))
    end)
  end)

  it("makes no growing allocation of its own in a steady state", function()
    local client = assert(icptoken.new(options))
    fetch_well(client)
    fetch_well(client)
    local before, before_bytes = testkit.curl_outstanding()
    for _ = 1, 200 do fetch_well(client) end
    local after, after_bytes = testkit.curl_outstanding()
    assert.equal(before, after)
    assert.is_true(math.abs(after_bytes - before_bytes) < 4096)
    client:close()
  end)
end)
