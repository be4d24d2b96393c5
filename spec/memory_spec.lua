-- Every allocation fails in turn, Lua's and libcurl's, under every public function: no crash, no
-- wrong token, no leak, and the client works afterwards.
local testkit = require "testkit"
local make_jwt = require "support.cases".make_jwt
local mime = require "mime"
local stub = require "stub.client"

-- A sweep tries every n-th point. Under valgrind each point takes seconds, so not all points are tried.
local SWEEPS = { { stride = 7, tag = " #short", name = "failing allocations" },
  { stride = 1, tag = " #deep", name = "every failing allocation" } }
if os.getenv "ICPTOKEN_VALGRIND" then SWEEPS[2] = nil end
local sanitized = os.getenv "ICPTOKEN_SANITIZED"
local MAX_POINTS = 20000
-- LuaJIT's compiler crashes after some failed allocations of its own, so the sweeps run without it.
local compiler = rawget(_G, "jit")

describe("when memory runs out", function()
  local icp, icptoken, options

  setup(function()
    if compiler then
      compiler.off()
      compiler.flush()
    end
    icp = stub.share()
    icptoken = require "icptoken"
    options = { host = "localhost", port = icp.ports.h1, cacert = icp.ca, id_token = icp.id_token,
      service = "token-service", scope = "repository:a/b:pull", retries = 0, timeout = 100, connect_timeout = 100,
      headers = { ["X-One"] = "1", ["X-Two"] = "2" },
      resolve = { ["mycluster.icp:8443"] = "127.0.0.1" } }
  end)

  teardown(function()
    icp:stop()
    if compiler then compiler.on() end
  end)

  before_each(function()
    icp:reset()
    icp:plan { token = "abc.def-123", times = "forever" }
  end)

  local function is_memory_error(message)
    return type(message) == "string" and message:find("not enough memory", 1, true) ~= nil
  end

  -- The codes with which a call may fail if an allocation failed; other codes would be wrong. localhost has two
  -- addresses, and the stub's port refuses connections at ::1. If memory ran out for 127.0.0.1, libcurl 8.14 only
  -- reports the other address, CURLE_COULDNT_CONNECT with ECONNREFUSED, and not the lack of memory.
  local plausible = { no_memory = true, resolve = true, network = true }
  local COULDNT_CONNECT = 7

  local function is_plausible(code, message, details)
    return plausible[code] or code == "connect" and details.curl_code == COULDNT_CONNECT
      and message:find("connection refused", 1, true) ~= nil
  end

  -- Checks one point of a sweep. Returns true if the call reported the lack of memory.
  local function judge(ok, value, message, code, details)
    if not ok then
      assert.is_true(is_memory_error(value), "raised " .. tostring(value))
      return true
    end
    if value ~= nil then return false end
    assert.is_string(message)
    assert.is_true(is_plausible(code, message, details) or false, tostring(code) .. ": " .. tostring(message))
    assert.is_true(details == nil or type(details) == "table")
    return true
  end

  local function report(name, points, surfaced)
    io.stdout:write(string.format("  sweep %-42s %5d points failed, %5d surfaced\n", name, points,
      surfaced))
  end

  -- Fails every stride-th point until one is not reached. subject() returns the function to call, and another one that
  -- is called afterwards with its first result (if nothing failed, with all of them), which checks and cleans up.
  local function sweep(name, failing, subject, stride)
    local points, surfaced, n = 0, 0, 1
    while true do
      local call, afterwards = subject()
      local results = { failing(n, call) }
      if not results[1] then
        afterwards(results[3], results)
        break
      end
      points = points + 1
      if judge(results[2], results[3], results[4], results[5], results[6]) then
        surfaced = surfaced + 1
      end
      afterwards(results[2] and results[3] or nil)
      n = n + stride
      assert.is_true(n < MAX_POINTS, name .. " does not finish")
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

  -- the subjects: each returns the call and the function for after it
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
      icp:reset() -- the order is still there if no request was sent
      icp:plan { token = "abc.def-123", times = "forever" }
      fetch_well(client)
      client:close()
    end
  end

  local function subject_rest()
    local jwt = make_jwt '{"sub":"admin","exp":1512021261.25,"iat":1512019461,"list":[0.5,-1.5e2,null]}'
    local with_certificates = { certificates = true }
    for name, value in pairs(options) do with_certificates[name] = value end
    local client = assert(icptoken.new(with_certificates))
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

  -- closing needs no memory: it succeeds at every point
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

  -- Whether ID tokens of earlier logins are still accepted or not, the stub is as before.
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

  -- A full cache evicts an entry, and one of 16 entries grows.
  local function make_subject_full(cache_size, cached)
    return function()
      local client = assert(icptoken.new(with { cache_size = cache_size }))
      local function get(n) return client:token { scope = "a:b" .. n .. ":c" } end
      for n = 1, cached do assert(get(n)) end
      return function() return get(0) end,
        function(token)
          if token then assert_token(token) end
          assert_token(assert(get(0)))
          assert.equal("cached", (select(3, get(0))))
          assert.equal(cache_size == cached and 1 or 0, client:stats().evictions)
          for n = 1, cache_size > cached and cached or 0 do assert.equal("cached", (select(3, get(n)))) end
          client:close()
        end
    end
  end

  -- A token is due for renewal at 70 % of its lifetime, which is too long to wait for at each point. So many tokens are
  -- requested at once, and used one after the other. Returns a subject, and a function that returns how many renewals
  -- were tried.
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
          assert.is_true(is_plausible(errors[n].code, errors[n].message, errors[n]), errors[n].code)
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
      password = icp.password, retries = 0, timeout = 100, connect_timeout = 100 }
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
      for n = 1, 3 do -- a request that is too late for the new ID token is refused
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

  local LOGIN_PATH = "/idprovider/v1/auth/identitytoken"

  -- {"token":"abc.def-123","expires_in":1800} in gzip's format
  local GZIPPED = mime.unb64 "H4sIAAAAAAACA6tWKsnPTs1TslJKTErWS0lN0zU0MlbSUUqtKMgsSi2OzwRKGVoYGNQCAIhuAKMpAAAA"
  local COMPRESSED = { raw64 = (mime.b64(("HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: %d\r\n\r\n")
    :format(#GZIPPED) .. GZIPPED)) }

  local function refuse(status, body, name, value)
    return { status = status, body = body, headers = name and { { name, value } } }
  end

  -- The credential is sent again if the call is made later than the pause of a second after the refusal.
  local function refuse_always(status, body)
    local order = refuse(status, body)
    order.times = "forever"
    return order
  end

  local function login_as(username)
    return function() return { id_token = false, login = { username = username, password = icp.password } } end
  end

  -- Returns another ID token at each call, so that each is a credential of its own.
  local function changing_token()
    local n = 0
    return { id_token = function()
      n = n + 1
      return make_jwt(('{"sub":"user-%d"}'):format(n))
    end }
  end

  local function get_twice(client)
    local token, message, code, details = client:token()
    if not token then return nil, message, code, details end
    return client:token()
  end

  local function fetch_many(client)
    local tokens, errors, code, details = client:fetch_all { {}, {} }
    if not tokens then return nil, errors, code, details end
    for n = 1, 2 do
      if not tokens[n] then return nil, errors[n].message, errors[n].code, errors[n] end
    end
    return tokens[1]
  end

  local function through_proxy() return { proxy = "http://127.0.0.1:" .. icp.ports.proxy } end
  local function through_port(name) return function() return { port = icp.ports[name] } end end
  local function hedged() return { hedge_after = 0.02 } end

  -- Paths of the code that depend on the cluster's answer, or on an option. Each: its name; what the stub does
  -- (orders); changes of the options; what is done before the call (before); the call, if it is not client:fetch(); the
  -- code of its failure (nil: a token); whether the failure is permanent for this client (lasts), whether libcurl is
  -- not called (no_curl), and whether a lack of memory may be reported as a body that cannot be decoded (undecoded).
  local PATHS = {
    { "a reason in WWW-Authenticate", orders = { refuse(401, "", "WWW-Authenticate",
      [[Bearer error="invalid_token", error_description="it is unknown"]]) }, code = "unauthorized", lasts = true },
    { "an error of OAuth", code = "forbidden",
      orders = { refuse(403, [[{"error":"access_denied","error_description":"not \u0061 user"}]]) } },
    { "200 with an error", orders = { refuse(200, [[{"errors":[{"code":"DENIED","message":"no"},{"message":"b"}]}]]) },
      code = "invalid_response" },
    { "200 with HTML", orders = { refuse(200, "<html>" .. ("&lt;"):rep(100)) }, code = "invalid_response" },
    { "200 with numbers of all kinds", orders = { refuse(200,
      [[{"token":"abc.def-123","expires_in":1800.0,"a":[1.5,-25e-1,null,{"b":[12.25,1E3,0.001]}]}]]) } },
    -- libcurl has one result code for a body that cannot be decoded and for memory that runs out meanwhile
    { "a compressed answer", orders = { COMPRESSED }, undecoded = true },
    { "an access_token beside an empty token, and Age", orders = { refuse(200,
      [[{"token":"","access_token":"abc.def-123","expires_in":1800}]], "Age", "0") } },
    { "503 with a body that is too large", orders = { refuse(503, ("x"):rep(2000), "Retry-After", "1795668423") },
      changes = function() return { max_body_bytes = 1000 } end, code = "server_error" },
    { "403 for an ID token that has expired", orders = { refuse(403, "{}") },
      changes = function() return { id_token = make_jwt [[{"iat":1,"exp":1512021261}]] } end, code = "forbidden",
      lasts = true },
    { "a redirect", orders = { { redirect = "https://elsewhere.example/" .. ("x"):rep(600) } }, code = "redirect" },
    { "a header line without a name", orders = { { raw = "HTTP/1.1 200 OK\r\nnonsense\r\n\r\n" } }, code = "network" },
    { "a refused ID token, remembered", orders = { refuse_always(401, "{}") },
      before = function(client) client:token() end, call = function(client) return client:token() end,
      code = "unauthorized", lasts = true, no_curl = true },
    { "a refused password, remembered, for many", orders = { refuse_always(401, [[{"errors":[{"message":"no"}]}]]) },
      changes = function() return { id_token = false, username = icp.username, password = "another" } end,
      before = function(client) client:fetch() end, call = fetch_many, code = "unauthorized", lasts = true,
      no_curl = true },
    { "a login refused with 400", orders = { { path = LOGIN_PATH, status = 400,
      body = [[{"error":"invalid_grant","error_description":"wrong"}]] } }, changes = login_as "nobody",
      code = "unauthorized", lasts = true },
    { "a login refused and remembered", changes = login_as "nobody", before = function(client) client:fetch() end,
      code = "unauthorized", lasts = true, no_curl = true },
    { "a login answered with 200 and an error", changes = login_as "admin", code = "invalid_response", lasts = true,
      orders = { { path = LOGIN_PATH, status = 200, body = [[{"error":"unauthorized_client"}]] } } },
    { "an empty password", code = "unauthorized", lasts = true,
      changes = function() return { id_token = false, username = icp.username, password = "" } end },
    { "a token for each credential", orders = { { status = 200, times = 2,
      body = [[{"token":"abc.def-123","expires_in":1800}]] } }, changes = changing_token, call = get_twice,
      lasts = true },
    { "an invalid ID token", changes = function() return { id_token = function() return "undefined" end } end,
      code = "invalid_credential", lasts = true, no_curl = true },
    { "several addresses", changes = function()
      return { resolve = { ["localhost:" .. icp.ports.h1] = { "127.0.0.1", "127.0.0.2" } } }
    end },
    { "a proxy that refuses", orders = { { listener = "proxy", status = 403, times = "forever" } },
      changes = through_proxy, code = "proxy", lasts = true },
    { "a proxy that closes", orders = { { listener = "proxy", raw = "", times = "forever" } },
      changes = through_proxy, code = "proxy", lasts = true },
    { "a certificate of an unknown CA", changes = through_port "unknown_ca", code = "tls",
      lasts = true },
    { "a required client certificate", changes = through_port "client_cert", code = "tls",
      lasts = true },
    { "an attempt beside a slow one", orders = { { token = "abc.def-123", delay = { before = 0.2 } } },
      changes = hedged },
    { "attempts beside slow ones, for many", changes = hedged, call = fetch_many,
      orders = { { token = "abc.def-123", delay = { before = 0.2 }, times = 2 } } },
  }

  -- Returns the subject of a path.
  local function make_subject(path)
    local function plan()
      icp:reset()
      for _, order in ipairs(path.orders or {}) do
        local copy = {}
        for name, value in pairs(order) do copy[name] = value end
        icp:plan(copy)
      end
      icp:plan { token = "abc.def-123", times = "forever" }
    end

    return function()
      local client = assert(icptoken.new(with(path.changes and path.changes() or {})))
      plan()
      if path.before then path.before(client) end
      local call = path.call or client.fetch
      return function()
        local token, message, code, details = call(client)
        if path.undecoded and code == "invalid_response" then return nil, message, "no_memory", details end
        if token == nil and code == path.code then return { refused = { message, details } } end
        return token, message, code, details
      end, function(result, whole)
        if whole then assert.is_table(result, tostring(whole[4])) end
        if result and path.code then assert.is_table(result.refused) end
        if result and not path.code then assert_token(result) end
        plan_anew()
        if not path.lasts then fetch_well(client) end
        client:close()
      end
    end
  end

  local function define_sweeps(whose, failing, cases)
    for _, path in ipairs(PATHS) do
      if whose == "Lua" or not path.no_curl then
        cases[#cases + 1] = { path[1], make_subject(path), sanitized and whose == "libcurl" }
      end
    end
    for _, each in ipairs(SWEEPS) do
      -- LuaJIT's short run under valgrind is of Lua's allocations alone
      local tag = (whose == "Lua" or each.tag ~= " #short") and each.tag or ""
      for _, case in ipairs(cases) do
        local name, subject, is_short = case[1], case[2], case[3]
        if each.stride > 1 or not is_short then
          it(("survives %s in %s%s"):format(each.name, name, tag), function()
            local _, surfaced = sweep(whose .. ", " .. name, failing, subject, each.stride)
            assert.is_true(surfaced > 0)
          end)
        end
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
      { "client:token that evicts", make_subject_full(1, 1) },
      { "client:token that grows the cache", make_subject_full(1024, 16) },
      { "icptoken.login", subject_login },
      { "client:fetch with a login", subject_with_login }, { "a login that expired", subject_new_login },
      { "a login that expired, for many", subject_new_login_of_many },
      { "client:fetch with a function", subject_function }, { "challenge", subject_challenge },
      { "client:fetch with a pipe", subject_pipes },
      { "new", subject_new }, { "icptoken.fetch", subject_one_shot },
      { "client:fetch, kept connection", subject_kept }, { "client:fetch with a request", subject_request },
      { "client:fetch that is refused", subject_refused }, { "decode, stats, tostring", subject_rest },
    }
    define_sweeps("Lua", testkit.with_failing_lua, cases)

    it("invalidates a token without any memory", function()
      local client = assert(icptoken.new(options))
      local kept = assert(client:token { scope = "a:b:c" })
      local _, ok, found = testkit.with_failing_lua(1, client.invalidate, client, kept.token)
      assert.is_true(ok, found)
      assert.is_true(found)
      assert.equal("fresh", (select(3, client:token { scope = "a:b:c" })))
      client:close()
    end)

    it("is not allocated by client:token for a cached token", function()
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

    -- Lua 5.2 itself needs memory to call a finaliser, and reports the lack of it
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
      { "client:fetch with a login", subject_with_login }, { "a login that expired", subject_new_login },
      { "a login that expired, for many", subject_new_login_of_many },
      { "client:fetch with a function", subject_function }, { "client:fetch with a pipe", subject_pipes },
    }
    define_sweeps("libcurl", testkit.with_failing_curl, cases)

    it("closes without any memory", function()
      local call, afterwards = subject_close()
      local _, ok, closed = testkit.with_failing_curl(1, call)
      assert.is_true(ok)
      afterwards(closed)
    end)

    it("has nothing allocated once its clients are collected", function()
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
