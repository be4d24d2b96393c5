-- A function as the credential: when it is called, how its results and errors are handled, and what it may do.

local cases = require "support.cases"
local icptoken = require "icptoken"
local stub_client = require "stub.client"
local testkit = require "testkit"
local timing = require "support.timing"

local under_valgrind = os.getenv "ICPTOKEN_VALGRIND"
local PATH = "/image-manager/api/v1/auth/token"

local stub

setup(function() stub = stub_client.share() end)
teardown(function() stub:stop() end)
before_each(function() stub:reset() end)

-- A client over plain http, which avoids handshakes.
local function open(id_token, changes)
  local options = { id_token = id_token, timeout = 100, connect_timeout = 100, retries = 0,
    url = ("http://127.0.0.1:%d%s"):format(stub.ports.http, PATH) }
  for name, value in pairs(changes or {}) do options[name] = value end
  return icptoken.new(options)
end

-- A client whose function returns the stub's ID token, and a function that returns how often it was called.
local function open_counting(changes)
  local calls = 0
  local client = open(function()
    calls = calls + 1
    return stub.id_token
  end, changes)
  return client, function() return calls end
end

describe("an id_token function", function()
  it("returns the ID token that is sent", function()
    local client = open(function() return stub.id_token end)
    assert(client:fetch())
    assert.equal("Bearer " .. stub.id_token, stub_client.header(stub:last(), "Authorization"))
    client:close()
  end)

  it("may return it with white space and a leading Bearer", function()
    local client = open(function() return " Bearer " .. stub.id_token .. "\n" end)
    assert(client:fetch())
    assert.equal("Bearer " .. stub.id_token, stub_client.header(stub:last(), "Authorization"))
    client:close()
  end)

  it("may return another one each time", function()
    local given = {}
    local client = open(function()
      given[#given + 1] = ("abc%d"):format(#given)
      return given[#given]
    end)
    for _ = 1, 3 do client:fetch() end
    for n, request in ipairs(stub:requests()) do
      assert.equal("Bearer " .. given[n], stub_client.header(request, "Authorization"))
    end
    client:close()
  end)

  it("is called without arguments", function()
    local count
    local client = open(function(...)
      count = select("#", ...)
      return stub.id_token
    end)
    assert(client:fetch())
    assert.equal(0, count)
    client:close()
  end)

  it("works with icptoken.fetch", function()
    local calls = 0
    assert(icptoken.fetch(cases.options(stub, { id_token = function()
      calls = calls + 1
      return stub.id_token
    end })))
    assert.equal(1, calls)
  end)

  it("lives as long as its client", function()
    local client = open((function()
      local token = stub.id_token
      return function() return token end
    end)())
    collectgarbage()
    collectgarbage()
    assert(client:fetch())
    client:close()
  end)

  it("that refers to its client does not keep it alive", function()
    local weak = setmetatable({}, { __mode = "k" })
    do
      local client
      client = open(function() return client and stub.id_token end)
      assert(client:fetch())
      weak[client] = true
    end
    collectgarbage()
    collectgarbage()
    assert.is_nil(next(weak))
  end)
end)

describe("an id_token function is called", function()
  it("once for each fetch, and not before", function()
    local client, count = open_counting()
    assert.equal(0, count())
    for n = 1, 3 do
      assert(client:fetch())
      assert.equal(n, count())
    end
    client:close()
  end)

  it("once however often an attempt fails", function()
    local client, count = open_counting { retries = 2 }
    stub:plan { status = 503, times = 2 }
    assert(client:fetch())
    assert.equal(3, #stub:requests())
    assert.equal(1, count())
    stub:reset()
    stub:plan { status = 401, times = "forever" }
    cases.check_failure("unauthorized", { stub.id_token }, client:fetch())
    assert.equal(2, count())
    assert.equal(1, #stub:requests())
    client:close()
  end)

  it("once for each client:token, also for a cached token", function()
    local client, count = open_counting()
    assert.equal("fresh", (select(3, client:token())))
    assert.equal(1, count())
    for _ = 1, 5 do assert.equal("cached", (select(3, client:token()))) end
    assert.equal(6, count())
    assert.equal("fresh", (select(3, client:token { scope = "a:b:c" })))
    assert.equal(7, count())
    client:close()
  end)

  it("once for a whole fetch_all, and not for an empty one", function()
    local client, count = open_counting()
    client:fetch_all {}
    assert.equal(0, count())
    local requests = {}
    for n = 1, 20 do requests[n] = {} end
    assert.is_nil((select(2, client:fetch_all(requests))))
    assert.equal(1, count())
    assert.equal(20, #stub:requests())
    client:close()
  end)

  it("not if the request has its own credential", function()
    local client, count = open_counting()
    assert(client:fetch { id_token = stub.id_token })
    assert(client:fetch { username = stub.username, password = stub.password })
    assert.equal(0, count())
    assert(client:fetch())
    assert.equal(1, count())
    client:close()
  end)

  it("not if the request is wrong or the client closed", function()
    local client, count = open_counting()
    assert.is_false((pcall(client.fetch, client, { scop = "a" })))
    assert.is_false((pcall(client.fetch_all, client, { {}, { scop = "a" } })))
    client:close()
    cases.check_failure("closed", {}, client:fetch())
    cases.check_failure("closed", {}, client:token())
    cases.check_failure("closed", {}, client:fetch_all { {} })
    assert.equal(0, count())
  end)
end)

-- The ways in which the function is called.
local CALLS = {
  fetch = function(client) return client:fetch() end,
  token = function(client) return client:token() end,
  fetch_all = function(client) return client:fetch_all { {}, {} } end,
}

for name, call in pairs(CALLS) do
  describe("an id_token function under " .. name, function()
    -- Calls with a function that does this once, and checks that the client works as before afterwards.
    local function call_with(behave)
      local calls = 0
      local client = open(function()
        calls = calls + 1
        if calls == 1 then return behave() end
        return stub.id_token
      end)
      local results = { n = 0 }
      local function keep(...) results = { n = select("#", ...), ... } end
      local ok, problem = pcall(function() keep(call(client)) end)
      assert.equal(1, calls)
      assert.equal(0, #stub:requests())
      if name == "fetch_all" then
        local tokens, errors = call(client)
        assert.is_nil(errors)
        assert.is_string(tokens[2].token)
      else
        assert.is_string(assert(call(client)).token)
      end
      assert.equal(2, calls)
      client:close()
      stub:reset()
      return ok, problem, results
    end

    local function fail_with(behave)
      local ok, problem, results = call_with(behave)
      assert.is_true(ok, problem)
      local message, details = cases.check_failure("invalid_credential", { stub.id_token, "two words" }, results[1],
        results[2], results[3], results[4])
      assert.is_false(details.retryable)
      assert.equal(0, details.attempts)
      return message
    end

    it("may say why it has none", function()
      local message = fail_with(function() return nil, "the vault is sealed" end)
      assert.matches("the vault is sealed", message, 1, true)
      assert.matches("id_token function", message, 1, true)
    end)

    it("may say so at length and on several lines", function()
      local message = fail_with(function() return nil, "line one\nline two\r\27[31m" .. ("x"):rep(5000) end)
      assert.matches("line one", message, 1, true)
      assert.is_true(#message < 1000)
    end)

    it("may say so in a message that contains a token", function()
      local message = fail_with(function() return nil, "refused " .. stub.id_token .. " by the vault" end)
      assert.matches("by the vault", message, 1, true)
      assert.not_matches(stub.id_token:sub(-40), message, 1, true)
    end)

    for what, behave in pairs {
      ["nothing"] = function() end, ["nil"] = function() return nil end, ["a number"] = function() return 5 end,
      ["false"] = function() return false end, ["true"] = function() return true, "x" end,
      ["a table"] = function() return { stub.id_token } end, ["a function"] = function() return print end,
      ["nil and a number"] = function() return nil, 5 end, ["nil and a table"] = function() return nil, {} end,
      ["false and a message"] = function() return false, "no" end,
    } do
      it("fails if it returns " .. what, function()
        local message = fail_with(behave)
        assert.matches("id_token function", message, 1, true)
        assert.matches("string", message, 1, true)
      end)
    end

    for what, text in pairs { ["null"] = "null", ["none"] = " None\n", ["undefined"] = "Bearer undefined",
      ["an object"] = "[object Object]", ["nothing"] = "", ["white space"] = " \n", ["two words"] = "two words",
      ["a NUL"] = "abc\0", ["a line break inside"] = "abc\r\nX: y", ["Basic"] = "Basic abc" } do
      it("fails if it returns a string of " .. what, function()
        assert.matches("id_token function", fail_with(function() return text end), 1, true)
      end)
    end

    it("may raise a table, which is passed on unchanged", function()
      local problem = setmetatable({}, { __tostring = function() return "told" end })
      local ok, got = call_with(function() error(problem) end)
      assert.is_false(ok)
      assert.is_true(rawequal(problem, got))
    end)

    it("may raise a string, which is passed on unchanged", function()
      local ok, got = call_with(function() error("any bytes\0\n\255", 0) end)
      assert.is_false(ok)
      assert.equal("any bytes\0\n\255", got)
    end)

    it("may raise nil, false or a function", function()
      for _, problem in ipairs { false, print } do
        local ok, got = call_with(function() error(problem) end)
        assert.is_false(ok)
        assert.equal(problem, got)
      end
      assert.is_false((call_with(function() error(nil) end)))
    end)

    it("may raise an error of Lua itself", function()
      local ok, got = call_with(function() return #nil end)
      assert.is_false(ok)
      assert.matches("attempt to get length", got, 1, true)
    end)

    it("must not yield", function()
      local routine, result
      routine = coroutine.wrap(function()
        local ok, got = call_with(function() return coroutine.yield() end)
        result = { ok, got }
      end)
      routine()
      assert.is_table(result, "it did yield")
      assert.is_false(result[1])
      assert.matches("yield", tostring(result[2]), 1, true)
    end)

    it("may use coroutines of its own", function()
      local client = open(function()
        local routine = coroutine.wrap(function()
          coroutine.yield "Bearer "
          coroutine.yield(stub.id_token)
        end)
        return routine() .. routine()
      end)
      assert.is_table(call(client))
      client:close()
    end)

    it("may use everything else of icptoken", function()
      local other = icptoken.new(cases.options(stub))
      local client = open(function()
        assert(icptoken.fetch(cases.options(stub)))
        assert(icptoken.decode(stub.id_token))
        assert(icptoken.challenge "Bearer realm=a")
        assert(other:fetch())
        assert(other:token())
        assert.is_nil((select(2, other:fetch_all { {}, {} })))
        return assert(icptoken.login(cases.options(stub, { id_token = false, username = stub.username,
          password = stub.password }))).id_token
      end)
      assert.is_table((call(client)))
      assert.is_table((call(client)))
      client:close()
      other:close()
    end)

    it("may use another client with a function, which uses a third one", function()
      local innermost = open_counting()
      local inner = open(function() return innermost:fetch() and stub.id_token end)
      local client = open(function() return inner:fetch() and stub.id_token end)
      assert.is_table((call(client)))
      for _, one in ipairs { client, inner, innermost } do one:close() end
    end)

    describe("that uses its own client", function()
      -- each: a method that must be refused, and its argument
      for _, case in ipairs { { "fetch" }, { "token" }, { "fetch_all", { {} } }, { "fetch", { scope = "a" } },
        { "token", { scope = "a" } }, { "close" } } do
        local method, argument = case[1], case[2]
        local what = method .. (argument and " with a table" or "")

        it("gets a clear error from " .. what, function()
          local client, ok, message
          client = open(function()
            ok, message = pcall(client[method], client, argument)
            return stub.id_token
          end)
          assert.is_table((call(client)))
          assert.is_false(ok)
          assert.matches("in the middle of a call", message, 1, true)
          assert.is_table((call(client)))
          client:close()
        end)

        it("and does not catch the error from " .. what .. " passes it on", function()
          local client, catches
          client = open(function()
            if not catches then client[method](client, argument) end
            return stub.id_token
          end)
          local ok, message = pcall(call, client)
          assert.is_false(ok)
          assert.matches("in the middle of a call", message, 1, true)
          catches = true
          assert.is_table((call(client)))
          client:close()
        end)
      end

      it("may read its statistics and its name", function()
        local client, stats, shown
        client = open(function()
          stats, shown = client:stats(), tostring(client)
          return stub.id_token
        end)
        assert.is_table((call(client)))
        assert.is_number(stats.requests)
        assert.equal(tostring(client), shown)
        client:close()
      end)
    end)

    it("takes time that does not count", function()
      timing.try(function(scale)
        local limit = 0.2 * scale
        stub:reset()
        local client = open(function()
          testkit.sleep(limit * 1.5)
          return stub.id_token
        end, { timeout = limit })
        stub:plan { delay = { before = 0.05 }, times = "forever" } -- more than is left of a limit that has passed
        local first, second = call(client)
        client:close()
        assert.is_table(first)
        assert.is_nil(second)
      end)
    end)

    it("leaves the whole time limit to the request", function()
      local client = open(function()
        testkit.sleep(0.2)
        return stub.id_token
      end, { timeout = 0.3 })
      stub:plan { delay = { before = 600 }, times = "forever" }
      local before = testkit.monotonic()
      call(client)
      local seconds = testkit.monotonic() - before
      assert.is_true(seconds >= 0.49, seconds)
      client:close()
    end)
  end)
end

describe("an id_token function while a token is renewed", function()
  -- Has a token cached, waits until it is to be renewed, with what the function does then, and passes the token and the
  -- results to check. The renewal has to begin before the token expires, for which a busy machine needs a longer life.
  local function renew(behave, check)
    timing.try(function(scale)
      local client, kept
      local renewing = false
      client = open(function()
        if renewing then return behave(client, kept) end
        return stub.id_token
      end)
      stub:reset()
      stub:set { expires_in = (under_valgrind and 8 or 2) * scale }
      kept = assert(client:token())
      renewing = true
      local results = timing.wait_for("a renewal", function()
        local all = { client:token() }
        return all[3] ~= "cached" and all
      end)
      client:close()
      check(kept, results[1], results[2], results[3])
    end)
  end

  it("may fail: the old token is returned", function()
    renew(function() return nil, "no" end, function(kept, token, _, source)
      assert.equal("stale", source)
      assert.equal(kept, token)
    end)
  end)

  local function check_new(kept, token, _, source)
    assert.equal("fresh", source)
    assert.are_not.equal(kept.token, token.token)
  end

  it("is called: a new token is returned", function()
    renew(function() return stub.id_token end, check_new)
  end)

  it("may invalidate the old token and fail: the result is a token, or an error with the reason", function()
    renew(function(client, kept)
      pcall(client.invalidate, client, kept.token)
      return nil, "no"
    end, function(_, token, message, third)
      if token == nil then
        assert.is_string(message)
        assert.equal("invalid_credential", third)
      else
        assert.is_string(token.token)
      end
    end)
  end)

  it("may invalidate the old token and return a new one", function()
    renew(function(client, kept)
      pcall(client.invalidate, client, kept.token)
      return stub.id_token
    end, check_new)
  end)
end)

describe("the option id_token", function()
  it("is a string or a function", function()
    for _, value in ipairs { 5, true, {}, setmetatable({}, { __call = print }) } do
      local ok, message = pcall(icptoken.new, { host = "a", id_token = value })
      assert.is_false(ok)
      assert.matches("'id_token'", message, 1, true)
      assert.matches("function", message, 1, true)
    end
  end)

  it("counts as one credential, also as a function", function()
    local ok, message = pcall(icptoken.new, { host = "a", id_token = print, anonymous = true })
    assert.is_false(ok)
    assert.matches("more than one credential", message, 1, true)
  end)

  it("of a request must not be a function", function()
    local client = open_counting()
    local ok, message = pcall(client.fetch, client, { id_token = print })
    assert.is_false(ok)
    assert.matches("'id_token'", message, 1, true)
    client:close()
  end)
end)
