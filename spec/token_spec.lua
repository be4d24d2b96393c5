-- client:token: which requests share a token, what a call may cost, and (in a child whose clocks are moved; the rows
-- are in support/token_times.lua) how long a token is used and when it is renewed.

local cases = require "support.cases"
local cjson = require "cjson"
local files = require "support.files"
local icptoken = require "icptoken"
local interpreter = require "support.interpreter"
local stub_client = require "stub.client"
local testkit = require "testkit"
local token_times = require "support.token_times"

local CACHE_MOST = 1024
local TOKEN_PATH = "/image-manager/api/v1/auth/token"
local under_valgrind = os.getenv "ICPTOKEN_VALGRIND" ~= nil
local sanitized = os.getenv "ICPTOKEN_SANITIZED" ~= nil

local stub

setup(function() stub = stub_client.share() end)
teardown(function() stub:stop() end)
before_each(function() stub:reset() end)

local function new_client(changes)
  return assert(icptoken.new(cases.options(stub, changes)))
end

local function ask(client, source, request)
  local token, message, got = client:token(request)
  assert.is_table(token, message)
  assert.is_nil(message)
  assert.equal(source, got)
  return token
end

local function fail(client, code, request)
  local message = cases.check_failure(code, { stub.id_token }, client:token(request))
  return message
end

describe("a token", function()
  it("is fresh at first, and then the same table, cached", function()
    local client = new_client { service = "token-service", scope = "repository:a/b:pull" }
    local token = ask(client, "fresh")
    for _ = 1, 10 do assert.equal(token, ask(client, "cached")) end
    assert.equal(1, #stub:requests())
    assert.equal(3, select("#", client:token()))
    client:close()
  end)

  it("is cached for an explicit request as well", function()
    local client = new_client()
    local request = { scope = "repository:a/b:pull" }
    local token = ask(client, "fresh", request)
    for _ = 1, 10 do assert.equal(token, ask(client, "cached", request)) end
    assert.equal(1, #stub:requests())
    client:close()
  end)

  it("is neither stored nor returned by client:fetch", function()
    local client = new_client()
    assert.is_table(client:fetch())
    local token = ask(client, "fresh")
    assert.are_not.equal(token.token, client:fetch().token)
    assert.equal(token, ask(client, "cached"))
    assert.equal(3, #stub:requests())
    client:close()
  end)

  it("is for what a challenge asks for", function()
    local client = new_client()
    local challenge = assert(icptoken.challenge('Bearer realm="https://elsewhere.example/auth",'
      .. 'service="token-service",scope="repository:a/b:pull",error="invalid_token"'))
    local token = ask(client, "fresh", challenge)
    assert.equal(token, ask(client, "cached", { service = "token-service", scope = "repository:a/b:pull" }))
    local query = stub:last().query
    assert.same({ "repository:a/b:pull" }, query.scope)
    assert.same({ "token-service" }, query.service)
    client:close()
  end)
end)

-- Each: what, a request, and another one that is equivalent.
local SAME = {
  { "the order of scopes", { scope = { "a:b:pull", "c:d:pull", "e:f:pull" } },
    { scope = { "e:f:pull", "a:b:pull", "c:d:pull" } } },
  { "a scope said twice", { scope = { "a:b:pull", "c:d:pull" } },
    { scope = { "c:d:pull", "a:b:pull", "a:b:pull", "c:d:pull" } } },
  { "a string instead of a list", { scope = { "a:b:pull", "c:d:pull" } }, { scope = "a:b:pull c:d:pull" } },
  { "spaces around scopes", { scope = "a:b:pull c:d:pull" }, { scope = "  c:d:pull   a:b:pull " } },
  { "a realm and an error", { service = "s" },
    { service = "s", realm = "https://elsewhere.example/", error = "invalid_token" } },
  { "no request at all", {}, nil },
  { "offline_token that is false anyway", {}, { offline_token = false } },
}

-- Requests of which no two are equivalent.
local DIFFERENT = {
  {}, { service = "s" }, { service = "t" }, { account = "s" }, { client_id = "s" }, { scope = "s" },
  { offline_token = true }, { service = "s", offline_token = true }, { service = "s", account = "s" },
  { service = "ss" }, { account = "a", client_id = "b" }, { account = "b", client_id = "a" },
  { scope = "a b" }, { scope = "ab" }, { scope = "a" }, { scope = "a:b:pull" }, { scope = "a:b:pull,push" },
  { scope = "A:b:pull" }, { scope = { "a:b:pull", "c:d:pull" } }, { service = "1:s" }, { scope = { "a", "1:b" } },
}

describe("the key of a request", function()
  for _, case in ipairs(SAME) do
    it("is not changed by " .. case[1], function()
      local client = new_client()
      local token = ask(client, "fresh", case[2])
      assert.equal(token, ask(client, "cached", case[3]))
      assert.equal(token, ask(client, "cached", case[2]))
      assert.equal(1, #stub:requests())
      client:close()
    end)
  end

  it("is changed by everything else", function()
    local client = new_client()
    local tokens = {}
    for i, request in ipairs(DIFFERENT) do tokens[i] = ask(client, "fresh", request) end
    for i, request in ipairs(DIFFERENT) do assert.equal(tokens[i], ask(client, "cached", request)) end
    assert.equal(#DIFFERENT, #stub:requests())
    client:close()
  end)

  it("includes the client's options for fields that the request does not have", function()
    local defaults = { service = "s", scope = { "a:b:pull", "c:d:pull" }, account = "me", client_id = "it",
      offline_token = true }
    local client = new_client(defaults)
    local token = ask(client, "fresh")
    assert.equal(token, ask(client, "cached", defaults))
    assert.equal(token, ask(client, "cached", {}))
    assert.equal(token, ask(client, "cached", { scope = "c:d:pull a:b:pull" }))
    for name in pairs(defaults) do
      local changed = { [name] = name ~= "offline_token" and "other" or false }
      assert.are_not.equal(token, ask(client, "fresh", changed))
    end
    assert.equal(token, ask(client, "cached"))
    assert.equal(6, #stub:requests())
    client:close()
  end)

  it("is the same whether the default request or the explicit one came first", function()
    local client = new_client { service = "s" }
    local token = ask(client, "fresh", { service = "s" })
    assert.equal(token, ask(client, "cached"))
    client:close()
  end)

  it("belongs to one client alone", function()
    local one, other = new_client { service = "s" }, new_client { service = "s" }
    local token = ask(one, "fresh")
    assert.are_not.equal(token.token, ask(other, "fresh").token)
    assert.is_false(other:invalidate(token.token))
    other:close()
    assert.equal(token, ask(one, "cached"))
    one:close()
  end)
end)

describe("a request for client:token", function()
  for _, name in ipairs { "id_token", "username", "password", "timeout", "retries", "host", "nonsense" } do
    it("must not have " .. name, function()
      local client = new_client()
      local value = (name == "timeout" or name == "retries") and 1 or "x"
      local ok, message = pcall(client.token, client, { [name] = value })
      assert.is_false(ok)
      assert.matches(name, message, 1, true)
      assert.equal(0, #stub:requests())
      ask(client, "fresh")
      client:close()
    end)
  end

  for _, wrong in ipairs { { service = 1 }, { scope = { 1 } }, { offline_token = "yes" }, "scope", 7, true } do
    it("must not be " .. cjson.encode(wrong), function()
      local client = new_client()
      ask(client, "fresh")
      assert.has_error(function() client:token(wrong) end)
      ask(client, "cached")
      assert.equal(1, #stub:requests())
      client:close()
    end)
  end
end)

describe("an id_token function", function()
  it("is called once for every call, as it says whose tokens may be returned", function()
    local calls = 0
    local client = new_client { id_token = function()
      calls = calls + 1
      return stub.id_token
    end }
    assert.equal(0, calls)
    ask(client, "fresh")
    for _ = 1, 5 do ask(client, "cached") end
    assert.equal(6, calls)
    ask(client, "fresh", { scope = "a:b:pull" })
    ask(client, "cached", { scope = "a:b:pull" })
    assert.equal(8, calls)
    assert.equal(2, #stub:requests())
    client:close()
  end)

  it("must not request a token that is not cached from its own client", function()
    local client, inner_ok, inner_message
    client = new_client { id_token = function()
      inner_ok, inner_message = pcall(client.token, client)
      return stub.id_token
    end }
    ask(client, "fresh")
    assert.is_false(inner_ok)
    assert.matches("this client is in the middle of a call; use another client here", inner_message, 1, true)
    ask(client, "cached")
    client:close()
  end)

  it("may use another client", function()
    local other = new_client()
    local client = new_client { id_token = function()
      ask(other, "fresh")
      return stub.id_token
    end }
    ask(client, "fresh")
    ask(other, "cached")
    client:close()
    other:close()
  end)

  it("that fails or raises an error leaves the client unchanged", function()
    local order = { function() return nil, "not now" end, function() error { "mine" } end }
    local client = new_client { id_token = function()
      local act = table.remove(order, 1)
      if act then return act() end
      return stub.id_token
    end }
    assert.matches("not now", fail(client, "invalid_credential"), 1, true)
    local ok, problem = pcall(client.token, client)
    assert.is_false(ok)
    assert.same({ "mine" }, problem)
    ask(client, "fresh")
    ask(client, "cached")
    client:close()
  end)
end)

describe("the cache of a client whose id_token function returns no string", function()
  for _, wrong in ipairs { "", 17, false, {} } do
    it("is not used for a " .. type(wrong), function()
      local current = "anna"
      stub:set { id_tokens = { "anna" } }
      local client = new_client { id_token = function() return current end }
      local token = ask(client, "fresh")
      current = wrong
      fail(client, "invalid_credential")
      current = nil
      assert.equal(token, ask(client, "cached"))
      client:close()
    end)
  end
end)

-- A client whose credential is replaced by that of another user: what it is, and a function that returns the client's
-- option and a function that changes the credential.
local CHANGING = {
  ["id_token function"] = function()
    local current
    return { id_token = function() return current end }, function(id_token) current = id_token end
  end,
  ["id_token_file"] = function()
    local path = os.tmpname()
    return { id_token = false, id_token_file = path }, function(id_token) files.write(path, id_token) end, path
  end,
}

for what, make in pairs(CHANGING) do
  describe("the cache of a client with an " .. what, function()
    local client, change, path

    before_each(function()
      stub:set { id_tokens = { "anna", "bert" } }
      local option
      option, change, path = make()
      change "anna"
      client = new_client(option)
    end)
    after_each(function()
      client:close()
      if path then os.remove(path) end
    end)

    it("keeps each identity's tokens apart", function()
      local of_anna = ask(client, "fresh")
      change "bert"
      local of_bert = ask(client, "fresh")
      assert.are_not.equal(of_anna.token, of_bert.token)
      for _ = 1, 3 do
        change "anna"
        assert.equal(of_anna, ask(client, "cached"))
        change "bert"
        assert.equal(of_bert, ask(client, "cached"))
      end
      local senders = {}
      for i, request in ipairs(stub:requests()) do senders[i] = stub_client.header(request, "Authorization") end
      assert.same({ "Bearer anna", "Bearer bert" }, senders)
    end)

    it("does so for every request", function()
      local request = { scope = "repository:a:pull" }
      local of_anna = ask(client, "fresh", request)
      change "bert"
      local of_bert = ask(client, "fresh", request)
      ask(client, "fresh")
      change "anna"
      assert.equal(of_anna, ask(client, "cached", request))
      ask(client, "fresh")
      assert.is_true(client:invalidate(of_anna.token))
      ask(client, "fresh", request)
      change "bert"
      assert.equal(of_bert, ask(client, "cached", request))
      assert.equal(5, #stub:requests())
    end)

    it("returns nothing to a refused identity", function()
      ask(client, "fresh")
      change "mallory"
      fail(client, "unauthorized")
      fail(client, "unauthorized")
      change "anna"
      ask(client, "cached")
    end)

    it("takes white space and Bearer around the ID token for the same identity", function()
      local token = ask(client, "fresh")
      change " Bearer anna\n"
      assert.equal(token, ask(client, "cached"))
      assert.equal(1, #stub:requests())
    end)

    it("is kept while there is no ID token for a time, as that is not another identity", function()
      local token = ask(client, "fresh")
      change(path and "" or nil)
      assert.equal(token, ask(client, "cached"))
      fail(client, "invalid_credential", { scope = "repository:a:pull" })
      change "anna"
      assert.equal(token, ask(client, "cached"))
      assert.equal(1, #stub:requests())
    end)

    for _, wrong in ipairs { "null", "two words", "f\195\188r", ("x"):rep(2 ^ 20 + 1) } do
      it("is not used for text that is not an ID token, such as " .. wrong:sub(1, 10), function()
        local token = ask(client, "fresh")
        change(wrong)
        fail(client, "invalid_credential")
        change "anna"
        assert.equal(token, ask(client, "cached"))
        assert.equal(1, #stub:requests())
      end)
    end

    it("is not used for an identity that client:fetch was given", function()
      local of_anna = ask(client, "fresh")
      assert.is_table(client:fetch { id_token = "bert" })
      assert.equal(of_anna, ask(client, "cached"))
      change "bert"
      assert.is_table(client:fetch())
      ask(client, "fresh")
    end)
  end)
end

describe("the cache of a client with a login", function()
  it("is kept over another login, which is that of the same user", function()
    local client = new_client { id_token = false, login = { username = stub.username, password = stub.password } }
    local token = ask(client, "fresh")
    stub:plan { path = TOKEN_PATH, status = 401 }
    ask(client, "fresh", { scope = "repository:a:pull" })
    assert.equal(token, ask(client, "cached"))
    client:close()
  end)
end)

describe("client:invalidate", function()
  it("removes exactly the token that it is given", function()
    local client = new_client()
    local own, other = ask(client, "fresh"), ask(client, "fresh", { scope = "a:b:pull" })
    assert.is_true(client:invalidate(own.token))
    assert.equal(other, ask(client, "cached", { scope = "a:b:pull" }))
    assert.are_not.equal(own.token, ask(client, "fresh").token)
    assert.is_true(client:invalidate(other.token))
    ask(client, "cached")
    ask(client, "fresh", { scope = "a:b:pull" })
    client:close()
  end)

  it("returns whether there was one", function()
    local client = new_client()
    assert.is_false(client:invalidate "a.b.c")
    local token = ask(client, "fresh").token
    assert.is_false(client:invalidate(token .. "x"))
    assert.is_false(client:invalidate(token:sub(1, -2)))
    assert.is_false(client:invalidate "")
    assert.is_true(client:invalidate(token))
    assert.is_false(client:invalidate(token))
    client:close()
  end)

  it("does not put another token in place of the default request's", function()
    local client = new_client()
    assert.is_true(client:invalidate(ask(client, "fresh").token))
    local other = ask(client, "fresh", { scope = "a:b:pull" })
    assert.are_not.equal(other, ask(client, "fresh"))
    assert.equal(other, ask(client, "cached", { scope = "a:b:pull" }))
    client:close()
  end)

  it("accepts only a string", function()
    local client = new_client()
    local token = ask(client, "fresh")
    for _, wrong in ipairs { token, 1, true } do
      assert.has_error(function() client:invalidate(wrong) end)
    end
    assert.has_error(function() client:invalidate() end)
    ask(client, "cached")
    client:close()
  end)

  it("lets the collector free what was removed", function()
    local client = new_client()
    local weak = setmetatable({ ask(client, "fresh") }, { __mode = "v" })
    client:invalidate(weak[1].token)
    collectgarbage()
    collectgarbage()
    assert.is_nil(weak[1])
    client:close()
  end)
end)

describe("a closed client", function()
  it("returns neither a cached token nor a new one", function()
    local client = new_client()
    local token = ask(client, "fresh").token
    client:close()
    fail(client, "closed")
    fail(client, "closed", { scope = "a:b:pull" })
    cases.check_failure("closed", {}, client:invalidate(token))
    assert.equal(1, #stub:requests())
  end)
end)

describe("the counters", function()
  it("distinguish cached tokens from requested ones", function()
    local client = new_client()
    stub:plan { status = 500 }
    fail(client, "server_error")
    ask(client, "fresh")
    for _ = 1, 4 do ask(client, "cached") end
    ask(client, "fresh", { scope = "a:b:pull" })
    for _ = 1, 3 do ask(client, "cached", { scope = "a:b:pull" }) end
    local stats = client:stats()
    assert.equal(7, stats.cache_hits)
    assert.equal(3, stats.requests)
    assert.equal(3, stats.attempts)
    assert.equal(0, stats.refreshes)
    assert.equal(0, stats.stale)
    assert.same({ server_error = 1 }, stats.failures)
    client:close()
  end)
end)

describe("a cached token", function()
  it("costs no allocation for the client's own request", function()
    local client = new_client { service = "token-service", scope = "repository:a/b:pull" }
    local token = ask(client, "fresh")
    local function ask_often()
      for _ = 1, 10000 do
        if client:token() ~= token then return "another token" end
      end
    end
    local blocks, bytes = testkit.curl_outstanding()
    local count, grown, ok, problem
    for _ = 1, 6 do -- LuaJIT may compile during a round; an allocation of ours would occur in each round
      count, grown, ok, problem = testkit.count_lua(ask_often)
      assert.is_true(ok)
      assert.is_nil(problem)
      if count == 0 then break end
    end
    assert.equal(0, count, grown .. " bytes")
    assert.same({ blocks, bytes }, { testkit.curl_outstanding() })
    client:close()
  end)

  it("leaves nothing behind for any other request", function()
    local client = new_client()
    local request = { service = "token-service", scope = { "c:d:pull", "a:b:pull" } }
    ask(client, "fresh", request)
    local function ask_often()
      for _ = 1, 1000 do client:token(request) end
      collectgarbage()
      collectgarbage()
      return collectgarbage "count"
    end
    local before = ask_often()
    local blocks = testkit.curl_outstanding()
    assert.is_true(ask_often() <= before + 1)
    assert.equal(blocks, (testkit.curl_outstanding()))
    client:close()
  end)
end)

describe("a full cache", function()
  local function scope(i)
    return { scope = ("repository:team/app-%d:pull"):format(i) }
  end

  it("evicts the token that expires first, even if it is that of the default request", function()
    local client = new_client(scope(500))
    local soonest = 500
    stub:plan({ token = "t", expires_in = 3600, times = soonest - 1 }, { token = "t", expires_in = 600 },
      { token = "t", expires_in = 3600, times = "forever" })
    for i = 1, CACHE_MOST + 1 do ask(client, "fresh", i ~= soonest and scope(i) or nil) end
    for i = 1, CACHE_MOST + 1 do
      if i ~= soonest then ask(client, "cached", scope(i)) end
    end
    ask(client, "fresh")
    assert.equal(CACHE_MOST + 2, client:stats().requests)
    client:close()
  end)

  it("evicts the token that expires first, at any cache_size, and counts it", function()
    local client = new_client { cache_size = 3 }
    for i, seconds in ipairs { 3600, 600, 1200, 3000, 2400 } do
      stub:plan { token = "t" .. i, expires_in = seconds }
      ask(client, "fresh", scope(i))
    end
    assert.equal(2, client:stats().evictions)
    for _, i in ipairs { 1, 4, 5 } do assert.equal("t" .. i, ask(client, "cached", scope(i)).token) end
    assert.equal(2, client:stats().evictions)
    client:close()
  end)

  it("of one token keeps the newest", function()
    local client = new_client { cache_size = 1 }
    stub:plan { token = "t", expires_in = 3600, times = "forever" }
    for i = 1, 3 do
      ask(client, "fresh", scope(i))
      ask(client, "cached", scope(i))
    end
    assert.equal(2, client:stats().evictions)
    client:close()
  end)

  it("has room for as many repositories as cache_size says: each is requested once", function()
    local client, many = new_client { cache_size = 4096 }, 2000
    stub:plan { token = "t", expires_in = 3600, times = "forever" }
    for round = 1, 3 do
      for i = 1, many do ask(client, round == 1 and "fresh" or "cached", scope(i)) end
    end
    local stats = client:stats()
    assert.equal(many, stats.requests)
    assert.equal(2 * many, stats.cache_hits)
    assert.equal(0, stats.evictions)
    assert.is_true(client:invalidate "t") -- all of them get the same token
    assert.is_false(client:invalidate "t")
    for i = 1, many, 100 do ask(client, "fresh", scope(i)) end
    client:close()
  end)

  it("holds 1,024 tokens and uses no more memory, however many are requested #deep", function()
    if under_valgrind then return pending "valgrind is too slow for so many, and keeps freed memory" end
    local client = new_client()
    local warm, many = 4 * CACHE_MOST, 10000
    local function ask_for(first, last)
      for i = first, last do ask(client, "fresh", scope(i)) end
      collectgarbage()
      collectgarbage()
      return collectgarbage "count", testkit.heap()
    end
    stub:plan { token = ("x"):rep(900), expires_in = 3600, times = "forever" }
    local filled, filled_heap = ask_for(1, warm)
    local held, held_heap = ask_for(warm + 1, many)
    assert.equal(many - CACHE_MOST, client:stats().evictions)
    assert.is_true(held < filled + 16, ("%.0f kB became %.0f kB"):format(filled, held))
    if not sanitized then -- the sanitizer has a malloc of its own
      assert.is_true(held_heap < filled_heap + 2 ^ 16, ("%.0f bytes became %.0f"):format(filled_heap, held_heap))
    end
    -- the newest first, so that a miss evicts one that was already requested
    local cached = 0
    while select(3, client:token(scope(many - cached))) == "cached" do cached = cached + 1 end
    -- Of tokens that expire at the same time, and of those that expire earlier after a slow answer, any may be evicted.
    assert.is_true(cached > CACHE_MOST / 4 and cached <= CACHE_MOST, cached)
    assert.is_true(client:invalidate(("x"):rep(900)))
    ask(client, "fresh", scope(many))
    client:close()
  end)
end)

describe("a client made before a fork", function()
  it("has its tokens in the child, too, and both get new ones", function()
    local client = new_client()
    local token = ask(client, "fresh")
    local pid = testkit.fork()
    if pid == 0 then
      local ok, good = pcall(function()
        local same, _, source = client:token()
        local new, _, new_source = client:token { scope = "a:b:pull" }
        return same == token and source == "cached" and new and new_source == "fresh"
          and client:invalidate(token.token) and select(3, client:token()) == "fresh"
      end)
      testkit._exit(ok and good and 0 or 1)
    end
    local how, status = testkit.waitpid(pid, 300)
    assert.same({ "exited", 0 }, { how, status })
    assert.equal(token, ask(client, "cached"))
    ask(client, "fresh", { scope = "a:b:pull" })
    assert.equal(4, #stub:requests())
    client:close()
  end)
end)

describe("as time passes", function()
  local results, how, status, output = {}, nil, nil, nil

  setup(function()
    local child = interpreter.start { code = [[require "support.token_times".run()]],
      preload = "build/clock_shift.so" }
    how, status, output = child.wait()
    for line in output:gmatch "[^\n]+" do
      local ok, result = pcall(cjson.decode, line)
      if ok and type(result) == "table" then results[result.name] = result end
    end
  end)

  for _, row in ipairs(token_times.rows) do
    it(row.name, function()
      local result = results[row.name]
      assert.is_table(result, output)
      assert.is_true(result.ok, result.problem)
    end)
  end

  it("the process exits normally", function()
    assert.same({ "exited", 0 }, { how, status }, output)
  end)
end)
