-- Logging in at the identity provider: icptoken.login, and clients with the option login.

local cases = require "support.cases"
local cjson = require "cjson"
local icptoken = require "icptoken"
local interpreter = require "support.interpreter"
local stub_client = require "stub.client"
local testkit = require "testkit"
local timing = require "support.timing"
local wall_clock = require "support.wall_clock"

local PATH = "/image-manager/api/v1/auth/token"
local LOGIN_PATH = "/idprovider/v1/auth/identitytoken"
local PASSWORD = "s3cret&scope=x%2B+ü #\"\\ö;/?:@=$,!~*'()end"

local stub

setup(function() stub = stub_client.share() end)
teardown(function() stub:stop() end)
before_each(function() stub:reset() end)

local function merge(base, changes)
  for name, value in pairs(changes or {}) do base[name] = value end
  for name, value in pairs(base) do base[name] = value or nil end
  return base
end

local function login_options(changes)
  return merge({ host = "localhost", port = stub.port, cacert = stub.ca, username = stub.username,
    password = stub.password, timeout = 100, connect_timeout = 100, retries = 0 }, changes)
end

local function login(changes)
  return icptoken.login(login_options(changes))
end

-- A client over plain http, which avoids handshakes, unless the changes name a host.
local function open(changes)
  local options = { url = ("http://127.0.0.1:%d%s"):format(stub.ports.http, PATH), timeout = 100,
    connect_timeout = 100, retries = 0, login = { username = stub.username, password = stub.password } }
  return icptoken.new(merge(options, changes))
end

-- How many requests for a login and how many for a token the stub received.
local function count_requests()
  local logins, tokens = 0, 0
  for _, request in ipairs(stub:requests()) do
    if request.path == LOGIN_PATH then logins = logins + 1 else tokens = tokens + 1 end
  end
  return logins, tokens
end

local function assert_requests(logins, tokens)
  local seen_logins, seen_tokens = count_requests()
  assert.equal(logins, seen_logins, "logins")
  assert.equal(tokens, seen_tokens, "requests for a token")
end

local function fail(code, token, message, ...)
  return cases.check_failure(code, { stub.id_token, PASSWORD }, token, message, ...)
end

-- For this long at least, a refused credential is not sent again.
local PAUSE_SECONDS = 1

-- Calls body, which makes calls within the pause after a refusal. If it fails because it took longer than the pause, it
-- is called again; but not under valgrind, where it may never be quick enough. support/token_times.lua counts logins
-- with clocks that stand still.
local function within_pause(body)
  timing.wait_for("a run that is over within the pause", function()
    stub:reset()
    local started = testkit.monotonic()
    local ok, problem = pcall(body)
    if ok then return true end
    if testkit.monotonic() - started < PAUSE_SECONDS then error(problem, 0) end
    return os.getenv "ICPTOKEN_VALGRIND"
  end)
end

local function assert_at_identity_provider(details)
  assert.equal(LOGIN_PATH, details.url:match "^%l+://[^/]+(/.*)$")
end

-- The answer to a request that was sent after `before` expires after this many seconds.
local function assert_expiry(seconds, before, answer)
  assert.is_true(answer.expires_at >= before + seconds - 1)
  assert.is_true(answer.expires_at <= wall_clock.read_after() + seconds)
end

local function decode_form(body)
  local fields, count = {}, 0
  for name, value in body:gmatch "([^&=]+)=([^&]*)" do
    fields[name] = value:gsub("+", " "):gsub("%%(%x%x)", function(digits)
      return string.char(tonumber(digits, 16))
    end)
    count = count + 1
  end
  return fields, count
end

-- The stub no longer accepts the ID token that it issued; nothing else changes.
local function end_id_tokens() stub:reset() end

describe("a login", function()
  it("posts the form that the identity provider expects", function()
    assert(login())
    local request = stub:last()
    assert.equal("POST", request.method)
    assert.equal(LOGIN_PATH, request.target)
    assert.equal("application/x-www-form-urlencoded", stub_client.header(request, "Content-Type"))
    assert.equal(tostring(#request.body), stub_client.header(request, "Content-Length"))
    assert.equal("application/json", stub_client.header(request, "Accept"))
    for _, name in ipairs { "Authorization", "Expect", "Cookie", "Transfer-Encoding" } do
      assert.is_nil(stub_client.header(request, name))
    end
    local fields, count = decode_form(request.body)
    assert.equal(4, count)
    assert.same({ grant_type = "password", username = "admin", password = "admin", scope = "openid" }, fields)
  end)

  for _, password in ipairs { PASSWORD, " ", "+", "%", "&=%+ü", "%41", ("p"):rep(10000), "\226\130\172\255\254",
    "Bearer x" } do
    it("encodes the password " .. password:sub(1, 24), function()
      local name = "jörg=&+%20 söhne"
      stub:set { users = { [name] = password } }
      assert(login { username = name, password = password })
      local request = stub:last()
      local fields, count = decode_form(request.body)
      assert.equal(4, count)
      assert.equal(password, fields.password)
      assert.equal(name, fields.username)
      assert.not_matches("[^%w%-._~%%=&+]", request.body)
    end)
  end

  it("returns what the identity provider answers", function()
    local before = os.time()
    local answer = assert(login())
    assert.is_nil(getmetatable(answer))
    assert.equal(43199, answer.expires_in)
    assert.equal("Bearer", answer.token_type)
    assert.equal("openid", answer.scope)
    for _, name in ipairs { "id_token", "access_token", "refresh_token" } do assert.is_string(answer[name]) end
    assert.is_true(answer.received_at >= before and answer.received_at <= wall_clock.read_after())
    assert_expiry(43199, before, answer)
    if math.type then
      for _, name in ipairs { "expires_in", "received_at", "expires_at" } do
        assert.equal("integer", math.type(answer[name]))
      end
    end
    assert.equal("admin", icptoken.decode(answer.id_token).claims.sub)
  end)

  it("returns no times that the server sends under the names of its own", function()
    stub:plan { body = '{"id_token":"a","expires_at":"soon","received_at":1}' }
    local answer = assert(login())
    assert.same({ id_token = "a" }, answer)
  end)

  it("returns an ID token with which a token is returned", function()
    local answer = assert(login())
    assert(icptoken.fetch(cases.options(stub, { id_token = answer.id_token })))
  end)

  it("keeps no connection", function()
    local before = #testkit.open_sockets()
    assert(login())
    fail("unauthorized", login { password = "wrong" })
    assert.equal(before, #testkit.open_sockets())
  end)

  it("takes the options of endpoint, TLS and network", function()
    assert(login { http_version = "2" })
    assert.equal("2", stub:last().version)
    assert(login { host = false, port = false, url = ("https://localhost:%d%s"):format(stub.port, LOGIN_PATH) })
    assert(login { host = false, port = false, cacert = false,
      url = ("http://localhost:%d%s"):format(stub.ports.http, LOGIN_PATH) })
    assert(login { host = "mycluster.icp", resolve = { ["mycluster.icp:" .. stub.port] = "127.0.0.1" },
      insecure = true, cacert = false, pinned_public_key = stub.pin })
    assert(login { port = stub.ports.client_cert, cert = stub.client_cert, key = stub.client_encrypted_key,
      key_password = stub.client_key_password })
    assert(login { proxy = "http://127.0.0.1:" .. stub.ports.proxy, connect_timeout = 5, tls_min = "1.3" })
    assert(login { headers = { ["X-Reason"] = "spec" }, user_agent = "me/1", no_proxy = "", max_body_bytes = 4000,
      allow_http = false })
    assert.equal("spec", stub_client.header(stub:last(), "X-Reason"))
    assert.equal("me/1", stub_client.header(stub:last(), "User-Agent"))
    assert.equal("application/x-www-form-urlencoded", stub_client.header(stub:last(), "Content-Type"))
  end)

  it("goes to another path if one is given", function()
    stub:plan { path = "/elsewhere/login", status = 200, body = '{"id_token":"abc"}' }
    assert.equal("abc", login({ path = "/elsewhere/login" }).id_token)
    assert.equal("POST", stub:last().method)
  end)

  describe("raises an error for", function()
    local function assert_refused(changes, ...)
      local ok, message = pcall(login, changes)
      assert.is_false(ok)
      for _, words in ipairs { ... } do assert.matches(words, message, 1, true) end
      assert.equal(0, #stub:requests())
    end

    for name, value in pairs { service = "a", scope = "a", account = "a", client_id = "a", offline_token = true,
      id_token = "a", id_token_file = "a", anonymous = true, login = { username = "a", password = "b" },
      parallel = 2, realm = "a", error = "a" } do
      it("the option " .. name .. ", which it does not accept", function()
        assert_refused({ [name] = value }, "'" .. name .. "'")
      end)
    end

    it("a missing user name or password", function()
      assert_refused({ username = false, password = false }, "username and password")
      assert_refused({ username = false }, "'password'", "'username'")
      assert_refused({ password = false }, "'username'", "'password'")
    end)

    it("wrong values", function()
      assert_refused({ password = 1 }, "'password'")
      assert_refused({ password = "" }, "'password'")
      assert_refused({ username = "a\n" }, "'username'", "control character")
      assert_refused({ passwort = "a" }, "'passwort'", "'password'")
      assert_refused({ host = false }, "'host'")
      assert_refused({ timeout = 0 }, "'timeout'")
      for _, value in ipairs { "text", 1, true } do assert.is_false((pcall(icptoken.login, value))) end
      assert.is_false((pcall(icptoken.login)))
    end)
  end)

  it("may have a colon in the user name, as it is no HTTP Basic", function()
    stub:set { users = { ["domain:joe"] = "pw" } }
    assert(login { username = "domain:joe", password = "pw" })
  end)
end)

describe("the identity provider's answer", function()
  local function answer(body, changes)
    stub:plan { path = LOGIN_PATH, status = 200, body = body }
    return login(changes)
  end

  -- each: what, its members, what is expected of expires_in
  for _, case in ipairs {
    { "names no life", [["id_token":"abc"]], nil }, { "names a life of null", [["id_token":"abc","expires_in":null]] },
    { "names a number", [["id_token":"abc","expires_in":90]], 90 },
    { "quotes a number", [["id_token":"abc","expires_in":"90"]], 90 },
    { "names a fraction", [["id_token":"abc","expires_in":90.9]], 90 },
    { "names a life of 0", [["id_token":"abc","expires_in":0]], 60 },
    { "names a huge number", [["id_token":"abc","expires_in":1e15]], 2147483647 },
  } do
    it("is usable if it " .. case[1], function()
      local before = os.time()
      local got = assert(answer("{" .. case[2] .. "}"))
      assert.equal("abc", got.id_token)
      assert.equal(case[3], got.expires_in)
      if case[3] then
        assert_expiry(case[3], before, got)
        assert.is_number(got.received_at)
      end
    end)
  end

  it("is returned without nulls and with integers", function()
    local got = assert(answer [[{"id_token":"abc","refresh_token":null,"n":5,"in":{"a":null,"b":[1,2]}}]])
    assert.is_nil(got.refresh_token)
    assert.same({ b = { 1, 2 } }, got["in"])
    assert.equal("5", tostring(got.n))
    assert.equal("1", tostring(got["in"].b[1]))
  end)

  for _, body in ipairs {
    "{}", '{"id_token":null}', '{"id_token":""}', '{"id_token":5}', '{"id_token":true}', '{"id_token":["abc"]}',
    '{"id_token":{"a":"b"}}', '{"id_token":"a b"}', '{"id_token":"abc\\r\\nX: y"}', '{"id_token":"abc\\u0000"}',
    '{"id_token":"caf\\u00e9"}', '{"id_token":"=="}', '{"id_token":"a=b"}', '{"id_token":" abc"}',
    '{"id_token":"Bearer abc"}', '{"access_token":"abc"}', '{"token":"abc"}', '{"ID_TOKEN":"abc"}',
    '{"data":{"id_token":"abc"}}',
    '{"id_token":"abc","expires_in":-1}', '{"id_token":"abc","expires_in":"soon"}',
    '{"id_token":"abc","expires_in":{}}', '{"id_token":"abc","expires_in":true}',
    '{"id_token":"abc","expires_in":1e400}', '{"id_token":"abc","expires_in":nan}', '{"id_token":"abc","n":1e400}',
    '["id_token"]', '"id_token"', "null", "<html>log in</html>", '{"id_token":"abc"', '{"id_token":"abc"}}',
    "id_token=abc", " ", '{"id_token":"abc"}\0',
  } do
    it("is not usable as " .. body:gsub("%z", "\\0"), function()
      local _, details = fail("invalid_response", answer(body, { retries = 2 }))
      assert.equal(200, details.status)
      assert.equal(1, details.attempts)
      assert.is_false(details.retryable)
      assert_at_identity_provider(details)
      assert_requests(1, 0)
    end)
  end

  it("is not requested again if it is empty or cut off, as the password may have been checked", function()
    for _, order in ipairs { { status = 200, body = "" }, { framing = "length", cut = 300 },
      { framing = "chunked", cut = 300 }, { framing = "close", cut = 300 } } do
      order.path = LOGIN_PATH
      stub:reset()
      stub:plan(order)
      local _, details = fail(order.body and "invalid_response" or "network", login { retries = 3 })
      assert.is_true(details.retryable)
      assert.equal(1, details.attempts)
      assert_requests(1, 0)
    end
  end)

  it("is refused if it is too large", function()
    stub:plan { path = LOGIN_PATH, endless = "body", bytes = 4e6 }
    fail("too_large", login { max_body_bytes = 10000 })
  end)
end)

describe("a login that is refused", function()
  it("is unauthorized, with the identity provider's words, and not retried", function()
    local message, details = fail("unauthorized", login { password = PASSWORD, retries = 5 })
    assert.matches("the user name or password is not right", message, 1, true)
    assert.same({ { code = "invalid_grant", message = "the user name or password is not right" } }, details.errors)
    assert.equal(401, details.status)
    assert.equal(1, details.attempts)
    assert.is_false(details.retryable)
    assert_at_identity_provider(details)
    assert_requests(1, 0)
  end)

  for status, code in pairs { [400] = "http_status", [403] = "forbidden", [404] = "not_found",
    [429] = "rate_limited", [302] = "redirect" } do
    it("has a code of its own with status " .. status, function()
      stub:plan { path = LOGIN_PATH, status = status, body = '{"error":"no","error_description":"not today"}',
        headers = { { "Location", "https://elsewhere.invalid/" } } }
      local message, details = fail(code, login { retries = 3 })
      assert.equal(status, details.status)
      assert.same({ { code = "no", message = "not today" } }, details.errors)
      assert.matches(status == 302 and "elsewhere.invalid" or "not today", message, 1, true)
      assert_at_identity_provider(details)
      assert_requests(1, 0)
    end)
  end

  for _, status in ipairs { 408, 429, 500, 501, 505, 599 } do
    it(("is not retried after a %d, as the password may have been checked"):format(status), function()
      stub:plan { path = LOGIN_PATH, status = status, headers = { { "Retry-After", "0" } }, times = "forever" }
      local details = select(4, login { retries = 3 })
      assert.equal(status, details.status)
      assert.equal(1, details.attempts)
      assert_requests(1, 0)
    end)
  end

  for _, status in ipairs { 502, 503, 504 } do
    it(("is retried after a %d, with the whole form"):format(status), function()
      stub:plan { path = LOGIN_PATH, status = status, times = 2 }
      assert(login { retries = 2 })
      local requests = stub:requests()
      assert.equal(3, #requests)
      assert.equal(requests[1].body, requests[3].body)
    end)
  end

  it("is retried if there was no connection", function()
    stub:plan { at = "connect", ["end"] = "reset", times = 2 }
    assert(login { retries = 2 })
    assert_requests(1, 0)
  end)

  it("is not retried after a reset", function()
    stub:plan { path = LOGIN_PATH, raw = "", ["end"] = "reset", times = 2 }
    local _, details = fail("network", login { retries = 2 })
    assert.equal(1, details.attempts)
    assert_requests(1, 0)
  end)

  it("is not sent again by libcurl if a kept connection breaks", function()
    local client = icptoken.new { host = "localhost", port = stub.ports.h1, cacert = stub.ca, retries = 0,
      login = { username = stub.username, password = stub.password } }
    assert(client:fetch())
    stub:reset()
    stub:plan({ path = PATH, status = 401 }, { path = LOGIN_PATH, raw = "", ["end"] = "close" })
    fail("network", client:fetch())
    assert_requests(1, 1)
    client:close()
  end)

  for _, code in ipairs { "invalid_grant", "invalid_client", "access_denied", "unauthorized_client" } do
    it(("means a wrong password if its status is 400 and its error %s"):format(code), function()
      stub:plan { path = LOGIN_PATH, status = 400,
        body = ('{"error":"%s","error_description":"not like that"}'):format(code) }
      local message, details = fail("unauthorized", login { retries = 3 })
      assert.matches("refused user name and password (400): not like that", message, 1, true)
      assert.same({ { code = code, message = "not like that" } }, details.errors)
      assert.equal(400, details.status)
      assert.is_false(details.retryable)
    end)
  end

  it("does not mean a wrong password if its status is 400 for another reason", function()
    for _, body in ipairs { '{"error":"invalid_request"}', '{"error":"unsupported_grant_type"}', "", "invalid_grant",
      '{"errors":[{"code":"invalid_scope"}]}' } do
      stub:plan { path = LOGIN_PATH, status = 400, body = body }
      fail("http_status", login())
    end
    stub:plan { path = PATH, status = 400, body = '{"error":"invalid_grant"}' }
    fail("http_status", icptoken.fetch(cases.options(stub)))
  end)

  it("ends at its time limit", function()
    stub:plan { path = LOGIN_PATH, delay = { before = 600 }, times = "forever" }
    local before = testkit.monotonic()
    local _, details = fail("timeout", login { timeout = 0.3, retries = 3 })
    assert_at_identity_provider(details)
    assert.is_true(testkit.monotonic() - before >= 0.29)
    assert.equal(1, details.attempts)
  end)

  it("reports why it cannot connect", function()
    fail("connect", login { port = stub.ports.refuse })
    fail("tls", login { port = stub.ports.unknown_ca })
    fail("resolve", login { host = "no-such-host.invalid" })
    fail("tls", login { cacert = "/nonexistent/ca.pem" })
  end)
end)

describe("a client that logs in", function()
  it("does so when necessary, and once for many fetches", function()
    local client = open()
    assert.equal(0, #stub:requests())
    for n = 1, 5 do
      assert(client:fetch { scope = "a:b:c" })
      assert_requests(1, n)
    end
    local stats = client:stats()
    assert.equal(5, stats.requests)
    assert.equal(6, stats.attempts)
    local authorization = stub_client.header(stub:last(), "Authorization")
    assert.matches("^Bearer eyJ", authorization)
    client:close()
  end)

  it("does so at the token endpoint's host, over HTTPS and with the endpoint's options", function()
    for _, version in ipairs { "1.1", "2" } do
      stub:reset()
      local client = open { url = false, host = "localhost", port = stub.port, cacert = stub.ca,
        http_version = version, headers = { ["X-One"] = "1" } }
      assert(client:fetch())
      assert_requests(1, 1)
      assert.equal(1, stub:accepted().https) -- both went over one connection
      assert.equal("1", stub_client.header(stub:requests()[1], "X-One"))
      client:close()
    end
  end)

  it("sends only the ID token to the token endpoint", function()
    stub:set { users = { joe = PASSWORD } }
    local client = open { login = { username = "joe", password = PASSWORD } }
    assert(client:fetch())
    local posted, asked = stub:requests()[1], stub:requests()[2]
    assert.is_nil(stub_client.header(posted, "Authorization"))
    assert.equal(PASSWORD, decode_form(posted.body).password)
    assert.equal("GET", asked.method)
    assert.equal("", asked.body)
    client:close()
  end)

  it("gets tokens for client:token too", function()
    local client = open()
    assert.equal("fresh", (select(3, client:token())))
    assert.equal("cached", (select(3, client:token())))
    assert.equal("fresh", (select(3, client:token { scope = "a:b:c" })))
    assert_requests(1, 2)
    end_id_tokens()
    assert.equal("cached", (select(3, client:token())))
    assert.equal("fresh", (select(3, client:token { scope = "d:e:f" })))
    assert_requests(1, 2)
    client:close()
  end)

  it("does so once more if its ID token is refused", function()
    local client = open()
    assert(client:fetch())
    for _ = 1, 3 do
      end_id_tokens()
      assert(client:fetch())
      assert_requests(1, 2)
      assert(client:fetch())
      assert_requests(1, 3)
    end
    client:close()
  end)

  it("gives up if a new ID token is refused, too, and does not log in for the next call", function()
    within_pause(function()
      local client = open { retries = 2 }
      assert(client:fetch())
      stub:reset()
      stub:plan { path = PATH, status = 401, times = "forever" }
      for _ = 1, 3 do
        local _, details = fail("unauthorized", client:fetch())
        assert.equal(PATH, details.url:match "^%l+://[^/]+(/.*)$")
        assert_requests(1, 2)
      end
      client:close()
    end)
  end)

  it("gives up if its first ID token is refused at once", function()
    stub:plan { path = PATH, status = 401, times = "forever" }
    local client = open { retries = 2 }
    fail("unauthorized", client:fetch())
    local logins, tokens = count_requests()
    assert.is_true(logins <= 2 and tokens <= 2, ("%d logins, %d requests"):format(logins, tokens))
    client:close()
  end)

  it("posts a wrong password once, whatever is called", function()
    within_pause(function()
      local client = open { login = { username = stub.username, password = PASSWORD }, retries = 5 }
      for n, call in ipairs { client.fetch, client.token, client.fetch, client.token, client.token } do
        local message, details = fail("unauthorized", call(client))
        assert.matches("the user name or password is not right", message, 1, true)
        assert.same({ { code = "invalid_grant", message = "the user name or password is not right" } }, details.errors)
        assert.equal(n == 1 and 1 or 0, details.attempts)
        assert_at_identity_provider(details)
        assert_requests(1, 0)
      end
      fail("unauthorized", client:fetch_all { {}, {}, {} })
      assert_requests(1, 0)
      client:close()
    end)
  end)

  it("posts a password that was changed meanwhile once", function()
    within_pause(function()
      local client = open { retries = 5 }
      assert(client:fetch())
      end_id_tokens()
      stub:set { users = { admin = "changed" } }
      for _ = 1, 3 do
        local _, details = fail("unauthorized", client:fetch())
        assert_at_identity_provider(details)
        assert_requests(1, 1)
      end
      client:close()
    end)
  end)

  -- each: how the identity provider fails, the code
  for _, case in ipairs {
    { { status = 503 }, "server_error" }, { { raw = "", ["end"] = "reset" }, "network" },
    { { cut = 200 }, "network" }, { { status = 200, body = "{}" }, "invalid_response" },
    { { status = 200, body = '{"id_token":"two words"}' }, "invalid_response" },
    { { delay = { before = 600 } }, "timeout" }, { { status = 403 }, "forbidden" },
    { { redirect = "https://elsewhere.invalid/" }, "redirect" },
  } do
    local order, code = case[1], case[2]
    it("reports that the identity provider fails: " .. cjson.encode(order), function()
      order.path = LOGIN_PATH
      local try = code == "timeout" and timing.try or function(body) return body(1) end
      try(function(scale) -- a time limit has to suffice for the login to arrive
        stub:reset()
        local client = open { timeout = 100, connect_timeout = 100 }
        stub:plan(order)
        local _, details = fail(code, client:fetch { timeout = code == "timeout" and 0.5 * scale or nil })
        assert_at_identity_provider(details)
        assert_requests(1, 0)
        assert(client:fetch()) -- it works again
        assert_requests(2, 1)
        client:close()
      end)
    end)
  end

  it("reports that the token endpoint fails, and keeps its ID token", function()
    local client = open()
    stub:plan { path = PATH, status = 503 }
    local _, details = fail("server_error", client:fetch())
    assert.matches("/image-manager/", details.url, 1, true)
    assert(client:fetch())
    assert_requests(1, 2)
    client:close()
  end)

  it("retries both after transient failures", function()
    local client = open { retries = 1 }
    stub:plan({ path = LOGIN_PATH, status = 503 }, { path = PATH, status = 503 })
    assert(client:fetch())
    assert_requests(2, 2)
    assert.equal(4, client:stats().attempts)
    client:close()
  end)

  it("has one time limit for the login and the fetch together", function()
    -- each of them alone would be in time
    local client = open { timeout = 0.5 }
    stub:plan({ path = LOGIN_PATH, delay = { before = 0.35 } }, { path = PATH, delay = { before = 0.35 } })
    local before = testkit.monotonic()
    fail("timeout", client:fetch())
    local seconds = testkit.monotonic() - before
    assert.is_true(seconds >= 0.49, seconds)
    client:close()
  end)

  it("has one time limit for a refusal, the login and the fetch together", function()
    local client = open { timeout = 0.6 }
    assert(client:fetch { timeout = 300 })
    stub:plan({ path = PATH, status = 401, delay = { before = 0.25 } },
      { path = LOGIN_PATH, delay = { before = 0.25 } }, { path = PATH, delay = { before = 0.25 } })
    local before = testkit.monotonic()
    fail("timeout", client:fetch())
    assert.is_true(testkit.monotonic() - before >= 0.59)
    client:close()
  end)

  it("keeps its ID token if a request has a credential of its own", function()
    local client = open()
    assert(client:fetch())
    assert(client:fetch { id_token = stub.id_token })
    assert(client:fetch { username = stub.username, password = stub.password })
    fail("unauthorized", client:fetch { id_token = "nonsense" })
    assert(client:fetch())
    assert_requests(1, 5)
    client:close()
  end)

  it("does not log in for a request with a credential of its own", function()
    local client = open()
    assert(client:fetch { id_token = stub.id_token })
    fail("unauthorized", client:fetch { id_token = "nonsense" })
    fail("unauthorized", client:fetch { username = "admin", password = "wrong" })
    assert_requests(0, 3)
    client:close()
  end)

  it("works in a child after a fork", function()
    local client = open()
    assert(client:fetch())
    local pid = testkit.fork()
    if pid == 0 then
      local ok, token = pcall(client.fetch, client)
      testkit._exit(ok and token and 0 or 1)
    end
    local how, status = testkit.waitpid(pid, 300)
    assert.equal("exited", how)
    assert.equal(0, status)
    assert(client:fetch())
    assert_requests(1, 3)
    client:close()
  end)

  it("is not affected by later changes of the caller's table", function()
    local credential = { username = stub.username, password = stub.password }
    local client = open { login = credential }
    credential.password, credential.username = "wrong", nil
    collectgarbage()
    assert(client:fetch())
    client:close()
  end)

  it("may have a colon in the user name", function()
    stub:set { users = { ["domain:joe"] = "pw" } }
    local client = open { login = { username = "domain:joe", password = "pw" } }
    assert(client:fetch())
    client:close()
  end)

  it("ends at Ctrl-C while it logs in, and works afterwards", function()
    stub:plan { path = LOGIN_PATH, delay = { before = 600 } }
    local child = interpreter.start { env = { ICP_PASSWORD = stub.password }, code = ([[
      local icptoken = require "icptoken"
      local client = icptoken.new { host = "localhost", port = %d, cacert = %q, timeout = 600,
        login = { username = %q, password = os.getenv "ICP_PASSWORD" } }
      print(pcall(client.fetch, client))
      print("again: " .. type(assert(client:fetch()).token))
    ]]):format(stub.port, stub.ca, stub.username) }
    timing.wait_for("a request", function() return stub:last() end)
    testkit.kill(child.pid, "INT")
    local _, _, output = child.wait()
    assert.matches("interrupted!", output, 1, true)
    assert.matches("again: string", output, 1, true)
  end)
end)

describe("fetch_all with a login", function()
  local function make_requests(count)
    local requests = {}
    for n = 1, count do requests[n] = { scope = ("repository:a/b%d:pull"):format(n) } end
    return requests
  end

  local function fetch_well(client, count)
    local tokens, errors = client:fetch_all(make_requests(count))
    assert.is_nil(errors)
    assert.equal(count, #tokens)
    for _, token in ipairs(tokens) do assert.is_string(token.token) end
  end

  it("logs in once before all", function()
    local client = open()
    fetch_well(client, 30)
    fetch_well(client, 30)
    assert(client:fetch())
    assert_requests(1, 61)
    client:close()
  end)

  it("logs in once more for many refusals", function()
    for _, parallel in ipairs { 1, 8 } do
      local client = open { parallel = parallel }
      assert(client:fetch())
      end_id_tokens()
      fetch_well(client, 40)
      local logins, tokens = count_requests()
      assert.equal(1, logins)
      assert.is_true(tokens >= 41 and tokens <= 40 + parallel, tokens .. " requests for a token")
      assert.equal(2 + logins + tokens, client:stats().attempts)
      client:close()
      stub:reset()
    end
  end)

  it("logs in once more over HTTP/2", function()
    local client = open { url = false, host = "localhost", port = stub.port, cacert = stub.ca, http_version = "2" }
    assert(client:fetch())
    end_id_tokens()
    fetch_well(client, 40)
    assert.equal(1, (count_requests()))
    client:close()
  end)

  it("does not log in endlessly if new ID tokens are refused", function()
    local client = open()
    assert(client:fetch())
    stub:reset()
    stub:plan { path = PATH, status = 401, times = "forever" }
    local tokens, errors = client:fetch_all(make_requests(20))
    for n = 1, 20 do
      assert.is_false(tokens[n])
      fail("unauthorized", nil, errors[n].message, errors[n].code, errors[n])
    end
    local logins, asked = count_requests()
    assert.equal(1, logins)
    assert.is_true(asked <= 40, asked .. " requests for a token")
    client:close()
  end)

  it("posts a password that was changed meanwhile once", function()
    within_pause(function()
      local client = open()
      assert(client:fetch())
      end_id_tokens()
      stub:set { users = { admin = "changed" } }
      local tokens, errors = client:fetch_all(make_requests(20))
      for n = 1, 20 do
        assert.is_false(tokens[n])
        assert.equal("unauthorized", errors[n].code)
      end
      assert.equal(1, (count_requests()))
      client:close()
    end)
  end)

  it("reports the requests for which the identity provider failed", function()
    local client = open()
    assert(client:fetch())
    end_id_tokens()
    stub:plan { path = LOGIN_PATH, status = 503 }
    local _, errors = client:fetch_all(make_requests(1))
    assert.equal("server_error", errors[1].code)
    assert_at_identity_provider(errors[1])
    client:close()
  end)

  it("logs in when necessary however long the others took", function()
    timing.try(function(scale)
      stub:reset()
      local client = open { timeout = 0.5 * scale, parallel = 1 }
      assert(client:fetch { timeout = 300 })
      stub:plan({ path = PATH, delay = { before = 0.15 * scale }, times = 5 }, { path = PATH, status = 401 },
        { path = LOGIN_PATH, delay = { before = 0.1 * scale } })
      fetch_well(client, 8)
      assert.equal(2, (count_requests()))
      client:close()
    end)
  end)

  it("has one time limit for a request's refusal, the login and its second attempt", function()
    local client = open { timeout = 0.5 }
    assert(client:fetch { timeout = 300 })
    stub:plan({ path = PATH, status = 401, delay = { before = 0.35 } },
      { path = LOGIN_PATH, delay = { before = 0.35 } })
    local before = testkit.monotonic()
    local tokens, errors = client:fetch_all(make_requests(1))
    assert.is_false(tokens[1])
    assert.equal("timeout", errors[1].code)
    assert.is_true(testkit.monotonic() - before >= 0.49)
    client:close()
  end)
end)

describe("the option login raises an error if it", function()
  -- each: what it is, the value
  for _, case in ipairs {
    { "is a string", "admin:admin" }, { "is true", true }, { "is a function", print }, { "is empty", {} },
    { "lacks the password", { username = "a" } }, { "lacks the user name", { password = "a" } },
    { "contains a number", { username = "a", password = 1 } },
    { "contains an empty name", { username = "", password = "b" } },
    { "contains an empty password", { username = "a", password = "" } },
    { "contains another field", { username = "a", password = "b", scope = "c" } },
    { "is a list", { "a", "b" } }, { "contains a NUL", { username = "a", password = "b\0" } },
    { "contains a line break", { username = "a\n", password = "b" } },
  } do
    it(case[1], function()
      local ok, message = pcall(icptoken.new, { host = "a", login = case[2] })
      assert.is_false(ok)
      assert.matches("'login'", message, 1, true)
    end)
  end

  it("is combined with another credential", function()
    local both = { host = "a", login = { username = "a", password = "b" } }
    for _, case in ipairs { { "id_token", "a" }, { "id_token", print }, { "id_token_file", "/a" },
      { "anonymous", true } } do
      both[case[1]] = case[2]
      local ok, message = pcall(icptoken.new, both)
      assert.is_false(ok)
      assert.matches("more than one credential", message, 1, true)
      both[case[1]] = nil
    end
  end)

  it("is in a request", function()
    local client = icptoken.new { host = "a", anonymous = true }
    local ok, message = pcall(client.fetch, client, { login = { username = "a", password = "b" } })
    assert.is_false(ok)
    assert.matches("belongs to the client", message, 1, true)
    client:close()
  end)
end)
