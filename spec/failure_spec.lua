-- What a caller gets if there is no token: a code for programs, a message for people, and details, none of which
-- contains a secret.

local cases = require "support.cases"
local icptoken = require "icptoken"
local mime = require "mime"
local stub_client = require "stub.client"
local timing = require "support.timing"

local LOGIN_PATH = "/idprovider/v1/auth/identitytoken"
local PATH = "/image-manager/api/v1/auth/token"
local PASSWORD = "pass-of-the-user"
local SAMPLE_CHARACTERS = 200

local stub
local where, endpoint, secrets

setup(function()
  stub = stub_client.share()
  where = "localhost:" .. stub.port
  endpoint = "https://" .. where .. PATH
  secrets = { stub.id_token, PASSWORD, (mime.b64("joe:" .. PASSWORD)) }
end)

teardown(function() stub:stop() end)
before_each(function() stub:reset() end)

-- Fetches, must fail with the code, and returns the message and the details.
local function fail(code, changes)
  return cases.check_failure(code, secrets, icptoken.fetch(cases.options(stub, changes)))
end

local function fail_with_body(code, status, body, changes)
  stub:plan { status = status, body = body }
  return fail(code, changes)
end

local function basic(changes)
  local all = { id_token = false, username = "joe", password = PASSWORD }
  for name, value in pairs(changes or {}) do all[name] = value end
  return all
end

-- Each: the code and what happens. order: for the stub; changes: of the options; retryable, curl_code: in the details;
-- says: words of the message.
local CODES = {
  { "invalid_credential", "an invalid ID token", changes = { id_token = "a b" }, says = "ID token" },
  { "resolve", "an unknown host name", changes = { host = ("x"):rep(64) .. ".icp" }, retryable = true,
    curl_code = 6, says = "resolve = {" },
  { "connect", "a port without a listener", changes = { port = "refuse" }, retryable = true, curl_code = 7,
    says = "connection refused" },
  { "proxy", "a proxy that is not there", changes = { proxy = "refuse" }, retryable = true, curl_code = 7,
    says = "proxy" },
  { "tls", "a certificate of an unknown CA", changes = { port = "unknown_ca" }, curl_code = 60,
    says = "has signed it" },
  { "timeout", "a port that never answers", changes = { port = "hang", timeout = 0.2 }, retryable = true,
    curl_code = 28, says = "within 0.2 s" },
  { "network", "a reset", order = { cut = 40, ["end"] = "reset" }, retryable = true, curl_code = 56,
    says = "cut off" },
  { "network", "an answer that ends early", order = { cut = 150, ["end"] = "close" }, retryable = true,
    curl_code = 18, says = "cut off" },
  { "network", "a connection that ends before the answer", order = { raw = "", ["end"] = "close" }, retryable = true,
    curl_code = 52, says = "before an answer arrived; is the service starting or overloaded" },
  { "network", "a TLS handshake that ends with a close", order = { at = "connect", ["end"] = "close" },
    retryable = true, curl_code = 35, says = "before an answer arrived; is the service starting or overloaded" },
  { "network", "a TLS handshake that ends with a reset", order = { at = "connect", ["end"] = "reset" },
    retryable = true, curl_code = 35, says = "before an answer arrived; is the service starting or overloaded" },
  { "tls", "a TLS handshake that the server refuses", changes = { port = "tls11" }, curl_code = 35,
    says = "no TLS version that tls_min allows" },
  { "tls", "a port that speaks no TLS", changes = { port = "banner" }, curl_code = 35,
    says = "is there a TLS service at that port?" },
  { "network", "another protocol", order = { raw = "SSH-2.0-OpenSSH_9\r\n" }, retryable = true, curl_code = 1,
    says = "not HTTP" },
  { "redirect", "a redirect", order = { redirect = "https://login.example/" }, says = "https://login.example/" },
  { "unauthorized", "an ID token that the server does not know", changes = { id_token = "other" }, says = "refused" },
  { "forbidden", "a 403", order = { status = 403 }, says = "denied the user access" },
  { "not_found", "a 404", order = { status = 404 }, says = "check host and path" },
  { "rate_limited", "a 429", order = { status = 429 }, retryable = true, says = "rate limiting requests" },
  { "server_error", "a 500", order = { status = 500 }, retryable = true, says = "500" },
  { "http_status", "a 418", order = { status = 418 }, says = "418" },
  { "too_large", "a body of too many bytes", order = { status = 200, body = "too many" },
    changes = { max_body_bytes = 7 }, curl_code = 23, says = "more than" },
  { "invalid_response", "an answer that is no JSON", order = { status = 200, body = "<html>" }, says = "<html>" },
  { "expired", "a token that has expired", order = { expires_in = 60, claims = { iat = 1, exp = 2 } },
    says = "already expired" },
}

-- Ports by the names of the stub's listeners become numbers.
local function place_options(changes)
  local all = cases.options(stub, changes)
  all.port = stub.ports[all.port] or all.port
  all.proxy = all.proxy and "http://127.0.0.1:" .. stub.ports[all.proxy]
  return all
end

describe("a failure by #short", function()
  for _, case in ipairs(CODES) do
    local code, what = case[1], case[2]

    it(what .. " has code " .. code, function()
      if case.order then stub:plan(case.order) end
      local all = place_options(case.changes)
      local message, details = cases.check_failure(code, secrets, icptoken.fetch(all))
      assert.equal(case.retryable or false, details.retryable)
      assert.equal(case.curl_code, details.curl_code)
      assert.equal(("https://%s:%d%s"):format(all.host, all.port, PATH), details.url)
      assert.matches(case.says, message, 1, true)
      if code ~= "invalid_credential" then
        assert.matches(("%s:%d"):format(all.host, all.port), message, 1, true)
        assert.equal(1, details.attempts)
      end
    end)
  end
end)

-- Each: the status, its code, and whether it is retryable.
local STATUSES = {
  { 201, "http_status", false }, { 202, "http_status", false }, { 204, "http_status", false },
  { 206, "http_status", false }, { 301, "redirect", false }, { 302, "redirect", false }, { 303, "redirect", false },
  { 304, "http_status", false }, { 307, "redirect", false }, { 308, "redirect", false },
  { 400, "http_status", false }, { 401, "unauthorized", false }, { 402, "http_status", false },
  { 403, "forbidden", false }, { 404, "not_found", false }, { 405, "http_status", false },
  { 407, "http_status", false }, { 408, "http_status", true }, { 409, "http_status", false },
  { 410, "http_status", false }, { 422, "http_status", false }, { 429, "rate_limited", true },
  { 451, "http_status", false }, { 499, "http_status", false }, { 500, "server_error", true },
  { 501, "server_error", false }, { 502, "server_error", true }, { 503, "server_error", true },
  { 504, "server_error", true }, { 505, "server_error", false }, { 599, "server_error", false },
  { 600, "http_status", false }, { 999, "http_status", false },
}

describe("the status", function()
  for _, case in ipairs(STATUSES) do
    local status, code, retryable = case[1], case[2], case[3]

    it(status .. " has code " .. code, function()
      local body = status ~= 204 and status ~= 304 and '{"token":"abc"}' or ""
      stub:plan { raw = ("HTTP/1.1 %d Whatever\r\nContent-Length: %d\r\n\r\n%s"):format(status, #body, body) }
      local message, details = fail(code)
      assert.equal(status, details.status)
      assert.equal(retryable, details.retryable)
      assert.matches(tostring(status), message, 1, true)
      assert.matches(where, message, 1, true)
      if math.type then assert.equal("integer", math.type(details.status)) end
    end)
  end

  it("is reported over HTTP/2 as well", function()
    stub:plan { status = 403, body = '{"message":"no"}' }
    local _, details = fail("forbidden", { http_version = "2" })
    assert.equal(403, details.status)
    assert.same({ { message = "no" } }, details.errors)
  end)

  it("of an interim answer does not count, nor do its headers", function()
    stub:plan { raw = "HTTP/1.1 103 Early Hints\r\nLocation: /early\r\nRetry-After: 60\r\n\r\n"
      .. "HTTP/1.1 302 Found\r\nContent-Length: 0\r\n\r\n" }
    local message, details = fail "redirect"
    assert.equal(302, details.status)
    assert.is_nil(details.retry_after)
    assert.not_matches("/early", message, 1, true)
  end)
end)

describe("the details", function()
  it("have the URL without its query", function()
    local _, details = fail_with_body("forbidden", 403, "", { service = "token-service", scope = "repository:a:pull" })
    assert.equal(endpoint, details.url)
  end)

  it("have the url option without its query", function()
    local _, details = fail_with_body("forbidden", 403, "", { host = false, port = false,
      url = endpoint .. "?key=4711" })
    assert.equal(endpoint, details.url)
  end)

  it("have no status if there was no answer", function()
    local _, details = fail("connect", { port = stub.ports.refuse })
    assert.is_nil(details.status)
    assert.is_nil(details.errors)
    assert.is_nil(details.retry_after)
  end)

  it("have no curl_code if libcurl reported no error", function()
    local _, details = fail_with_body("forbidden", 403, "")
    assert.is_nil(details.curl_code)
  end)

  it("have retry_after in seconds, even if there was no wait", function()
    stub:plan { status = 503, headers = { { "Retry-After", "120" } } }
    local _, details = fail "server_error"
    assert.equal(120, details.retry_after)
    assert.is_true(details.retryable)
  end)

  it("contain nothing else", function()
    local known = { status = true, errors = true, retryable = true, retry_after = true, attempts = true,
      curl_code = true, url = true }
    stub:plan { status = 503, headers = { { "Retry-After", "120" } }, body = '{"message":"no"}' }
    local _, details = fail "server_error"
    for name in pairs(details) do assert.is_true(known[name] or false, name) end
  end)

  it("of one failure are not those of the next", function()
    local client = icptoken.new(cases.options(stub))
    stub:plan({ status = 503, headers = { { "Retry-After", "120" } }, body = '{"message":"no"}' }, { status = 403 })
    local _, first = cases.check_failure("server_error", secrets, client:fetch())
    local _, second = cases.check_failure("forbidden", secrets, client:fetch())
    client:close()
    assert.same({ { message = "no" } }, first.errors)
    assert.is_nil(second.errors)
    assert.is_nil(second.retry_after)
  end)
end)

-- Each: what, the body of a 400, and the errors that are read from it (nil: none).
local BODIES = {
  { "the registry's form", '{"errors":[{"code":"DENIED","message":"no access","detail":null}]}',
    { { code = "DENIED", message = "no access" } } },
  { "the registry's form with two errors",
    '{"errors":[{"code":"DENIED","message":"no access"},{"code":"UNKNOWN","message":"what?"}]}',
    { { code = "DENIED", message = "no access" }, { code = "UNKNOWN", message = "what?" } } },
  { "the registry's form without messages", '{"errors":[{"code":"DENIED"}]}', { { code = "DENIED" } } },
  { "the registry's form with things of other types",
    '{"errors":[5,{"code":7,"message":true},{"code":"DENIED","message":["a"],"detail":{"a":[1]}}]}',
    { {}, { code = "DENIED" } } },
  { "the OAuth form", '{"error":"invalid_grant","error_description":"the user is locked"}',
    { { code = "invalid_grant", message = "the user is locked" } } },
  { "the OAuth form without a description", '{"error":"invalid_grant"}', { { code = "invalid_grant" } } },
  { "details", '{"details":"incorrect username or password"}', { { message = "incorrect username or password" } } },
  { "a message", '{"message":"not now"}', { { message = "not now" } } },
  { "white space around it", ' \n{"message":"not now"}\n', { { message = "not now" } } },
  { "an empty list of errors", '{"errors":[]}' }, { "errors that are a string", '{"errors":"none"}' },
  { "errors that are null", '{"errors":null}' }, { "a message that is a number", '{"message":5}' },
  { "an empty object", "{}" }, { "a list", '[{"message":"not now"}]' }, { "a web page", "<html>Bad Gateway</html>" },
  { "garbage", "\1\2\3" }, { "nothing", "" }, { "broken JSON", '{"message":"not n' },
}

describe("the errors of a refusal", function()
  for _, case in ipairs(BODIES) do
    local what, body, errors = case[1], case[2], case[3]

    it("are read from a body with " .. what, function()
      local message, details = fail_with_body("http_status", 400, body)
      assert.same(errors, details.errors)
      local first = errors and (errors[1].message or errors[1].code)
      if first then assert.matches(first, message, 1, true) end
    end)
  end

  for _, body in ipairs { '{"error":"access_denied","error_description":"no such team"}',
    '{"errors":[{"code":"DENIED","message":"no such team"}]}', '{"message":"no such team"}',
    '{"details":"no such team"}', '{"token":null,"message":"no such team"}' } do
    it("are read from an answer of 200 without a token, " .. body, function()
      local message, details = fail_with_body("invalid_response", 200, body)
      assert.matches("no such team", message, 1, true)
      assert.equal("no such team", details.errors[1].message)
      assert.is_false(details.retryable)
      stub:plan { path = LOGIN_PATH, status = 200, body = body }
      local _, said, code, more = icptoken.login { host = "localhost", port = stub.ports.h1, cacert = stub.ca,
        username = stub.username, password = stub.password }
      assert.matches("no such team", said, 1, true)
      assert.equal("invalid_response", code)
      assert.equal("no such team", more.errors[1].message)
    end)
  end

  it("are a sample of an answer of 200 without a token and without errors", function()
    local message, details = fail_with_body("invalid_response", 200, '{"state":"under maintenance"}')
    assert.matches('it begins: {"state":"under maintenance"}', message, 1, true)
    assert.is_nil(details.errors)
  end)

  it("are those that ICP itself sends", function()
    local message, details = fail("unauthorized", { id_token = "unknown-token" })
    assert.same({ { code = "UNAUTHORIZED", message = "authentication required" } }, details.errors)
    assert.matches("authentication required", message, 1, true)
  end)

  it("do not fill the memory if there are many", function()
    local list = ('{"code":"A","message":"b"},'):rep(5000) .. "{}"
    local _, details = fail_with_body("http_status", 400, '{"errors":[' .. list .. "]}")
    assert.is_true(#details.errors >= 1 and #details.errors <= 100)
  end)
end)

local function count_characters(text)
  return select(2, text:gsub("[^\128-\191]", ""))
end

-- The beginning of the body, from its first mark on, as the message shows it.
local function find_sample(message, mark)
  return message:sub((assert(message:find(mark, 1, true), message)))
end

local JWT = "eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiJhZG1pbiJ9.c2lnbmF0dXJl"

-- Each: what, the body, and what must be shown of it.
local HIDDEN = {
  { "a JWT", "token is " .. JWT .. " today", { "token is ", " today" } },
  { "a JWT in quotes", '{"jwt":"' .. JWT .. '","a":1', { '{"jwt":"', '","a":1' } },
  { "two JWTs", JWT .. " " .. JWT, {} },
  { "a JWT at the end", "token=" .. JWT, { "token=" } },
  { "a JWT across the 200th character", ("x"):rep(190) .. JWT, { ("x"):rep(190) } },
  { "half a JWT", ("x"):rep(10) .. JWT:sub(1, 30), { ("x"):rep(10) } },
}

local CODE_OF = { [200] = "invalid_response", [401] = "unauthorized", [500] = "server_error" }

describe("a sample of a body", function()
  for _, text in ipairs { "x", "\195\169", "\240\159\152\128", "\12", "\255", "\n" } do
    it(("of repeated %q has at most 200 characters"):format(text), function()
      local message = fail_with_body("http_status", 400, "MARK" .. text:rep(5000))
      assert.is_true(count_characters(find_sample(message, "MARK")) <= SAMPLE_CHARACTERS)
    end)
  end

  it("contains a short body completely", function()
    local body = ("x"):rep(100) .. " caf\195\169 \226\130\172"
    assert.matches(body, fail_with_body("http_status", 400, body), 1, true)
  end)

  it("has its control characters and broken bytes escaped", function()
    local message = fail_with_body("http_status", 400, "MARK \r\n\t\255\228end")
    local sample = find_sample(message, "MARK")
    assert.matches("^[%w%p ]+$", sample)
    assert.matches("end$", sample)
  end)

  it("is never truncated inside a character", function()
    for shift = 0, 3 do
      local body = ("x"):rep(shift) .. ("\240\159\152\128"):rep(1000)
      local message = fail_with_body("http_status", 400, body)
      for character in message:gmatch "[\194-\244][\128-\191]*" do
        local first = character:byte()
        assert.equal(first >= 0xF0 and 4 or first >= 0xE0 and 3 or 2, #character)
      end
    end
  end)

  for status, code in pairs(CODE_OF) do
    for _, case in ipairs(HIDDEN) do
      it(("of a %d hides %s"):format(status, case[1]), function()
        stub:plan { status = status, body = case[2] }
        local message = cases.check_failure(code, { "c2lnbmF0dXJl" }, icptoken.fetch(cases.options(stub)))
        for _, shown in ipairs(case[3]) do assert.matches(shown, message, 1, true) end
      end)
    end
  end

  it("hides the credential that was sent, if the server repeats it", function()
    for status, code in pairs(CODE_OF) do
      fail_with_body(code, status, "you sent Authorization: Bearer " .. stub.id_token)
    end
    stub:plan { status = 401, body = "token opaque-id-token is unknown" }
    cases.check_failure("unauthorized", { "opaque-id-token" }, icptoken.fetch(cases.options(stub,
      { id_token = "opaque-id-token" })))
  end)

  it("hides a password and the header made of it", function()
    fail_with_body("unauthorized", 401, "joe:" .. PASSWORD .. " is wrong", basic())
    fail_with_body("unauthorized", 401, "Basic " .. mime.b64("joe:" .. PASSWORD), basic())
    fail_with_body("unauthorized", 401, (mime.b64("joe:" .. PASSWORD)), basic())
  end)

  it("hides the same in the errors of a refusal", function()
    local form = '{"errors":[{"code":"%s","message":"a %s b"}]}'
    for _, secret in ipairs { stub.id_token, JWT } do
      local _, details = fail_with_body("unauthorized", 401, form:format(secret, secret))
      assert.matches("^a .* b$", details.errors[1].message)
    end
    fail_with_body("unauthorized", 401, form:format(PASSWORD, PASSWORD), basic())
  end)

  it("is as short and as clean in the errors of a refusal", function()
    local form = '{"error":"%s","error_description":"%s"}'
    local _, details = fail_with_body("http_status", 400, form:format(("c"):rep(3000), ("\\u0001\\n"):rep(1000)))
    assert.is_true(#details.errors[1].code <= SAMPLE_CHARACTERS + 2)
    assert.is_true(count_characters(details.errors[1].message) <= SAMPLE_CHARACTERS)
    assert.not_matches("%c", details.errors[1].message)
  end)
end)

-- Each: the Location, and how the message shows it.
local LOCATIONS = {
  { "https://login.example/path", "https://login.example/path" },
  { "https://login.example/path?code=4711&user=joe", "https://login.example/path" },
  { "https://login.example/path#joe-4711", "https://login.example/path" },
  { "https://login.example?joe=4711", "https://login.example" },
  { "https://joe:4711@login.example/path", "https://login.example/path" },
  { "https://joe@login.example:444/path", "https://login.example:444/path" },
  { "https://joe:47@11@login.example/path", "https://login.example/path" },
  { "//joe:4711@login.example/path", "//login.example/path" },
  { "/login?joe=4711", "/login" },
}

describe("a redirect", function()
  for _, case in ipairs(LOCATIONS) do
    local location, shown = case[1], case[2]

    it("to " .. location .. " is named without query and user", function()
      stub:plan { redirect = location }
      local message = fail "redirect"
      assert.matches(shown .. " (302)", message, 1, true)
      for _, hidden in ipairs { "joe", "4711", "?", "#" } do assert.not_matches(hidden, message, 1, true) end
    end)
  end

  it("to a URL that contains a JWT is named without it", function()
    stub:plan { redirect = "/path/" .. JWT }
    local message = cases.check_failure("redirect", { "c2lnbmF0dXJl" }, icptoken.fetch(cases.options(stub)))
    assert.matches("/path/", message, 1, true)
  end)

  it("with a very long Location is named by its host", function()
    stub:plan { redirect = "https://login.example/" .. ("x"):rep(5000) }
    local message = fail "redirect"
    assert.matches("https://login.example/ ", message, 1, true)
    assert.is_true(#message < 600)
  end)

  it("is never followed", function()
    local target = ("http://127.0.0.1:%d%s"):format(stub.ports.http, PATH)
    for _, status in ipairs { 301, 302, 303, 307, 308 } do
      stub:plan { status = status, redirect = target }
      fail("redirect", { retries = 2 })
    end
    assert.same({ https = 5 }, stub:accepted())
    assert.equal(5, #stub:requests())
  end)
end)

-- Each: what, the claims of the ID token, whether the message says that it has expired. If a row has a Date, the
-- server's clock is at 1512019461.
local DATE = "Thu, 30 Nov 2017 05:24:21 GMT"
local ENDED = {
  { "has expired", '{"iat":1000000000,"exp":1000003600}', true },
  { "has expired and has no iat", '{"exp":1000003600}', true },
  { "has not ended", '{"iat":1000000000,"exp":4000000000}', false },
  { "has exp equal to iat", '{"iat":1000000000,"exp":1000000000}', false },
  { "has no exp", '{"iat":1000000000}', false },
  { "has expired by the server's clock", '{"iat":1512000000,"exp":1512019460}', true, DATE },
  { "has not ended by the server's clock", '{"iat":1512000000,"exp":1512019561}', false, DATE },
}

describe("a 401", function()
  for _, case in ipairs(ENDED) do
    local what, claims, ended, date = case[1], case[2], case[3], case[4]

    it(("says %s when the ID token %s"):format(ended and "so" or "nothing", what), function()
      local id_token = cases.make_jwt(claims)
      stub:plan { status = 401, date = date }
      local message = cases.check_failure("unauthorized", { id_token },
        icptoken.fetch(cases.options(stub, { id_token = id_token })))
      assert.equal(ended, message:find("the ID token expired", 1, true) ~= nil, message)
      stub:plan { status = 403, date = date }
      message = cases.check_failure("forbidden", { id_token },
        icptoken.fetch(cases.options(stub, { id_token = id_token })))
      assert.equal(ended, message:find("the ID token expired", 1, true) ~= nil, message)
    end)
  end

  for exp, when in pairs { [1000003600] = "2001-09-09 02:46:40", [2208988800] = "2040-01-01 00:00:00",
    [4107542399] = "2100-02-28 23:59:59", [4107542400] = "2100-03-01 00:00:00", [951782400] = "2000-02-29 00:00:00" } do
    it("names the expiry of the ID token, " .. when, function()
      stub:plan { status = 401, date = "Fri, 01 Jan 2150 00:00:00 GMT" }
      local message = fail("unauthorized", { id_token = cases.make_jwt(('{"iat":1,"exp":%.0f}'):format(exp)) })
      assert.matches(when .. " UTC", message, 1, true)
      assert.matches("log in again", message, 1, true)
    end)
  end

  -- each: the values of WWW-Authenticate, what is read of them
  for _, case in ipairs {
    { { [[Bearer error="invalid_token", error_description="the token was revoked"]] },
      { code = "invalid_token", message = "the token was revoked" }, "the token was revoked" },
    { { [[Bearer realm="x", error="invalid_token"]] }, { code = "invalid_token" }, "invalid_token" },
    { { [[Basic realm="x"]], [[Bearer error="a",error_description="say \"b\""]], [[Negotiate]] },
      { code = "a", message = [[say "b"]] }, [[say "b"]] },
    { { [[Basic realm=/, bearer error="a" error_description="b"]] }, { code = "a", message = "b" }, ": b" },
    { { [[Bearer realm="x"]] } }, { { [[Basic error="a"]] } }, { { [[Bearer error="a]] } }, { { "" } },
  } do
    it("without a body reports what is in " .. table.concat(case[1], " and "), function()
      local headers = {}
      for i, value in ipairs(case[1]) do headers[i] = { "WWW-Authenticate", value } end
      stub:plan { status = 401, body = "", headers = headers }
      local message, details = fail("unauthorized")
      assert.same(case[2] and { case[2] } or nil, details.errors)
      if case[3] then assert.matches(case[3], message, 1, true) end
    end)
  end

  it("with a body reports what the body says", function()
    stub:plan { status = 401, body = '{"errors":[{"code":"A","message":"in the body"}]}',
      headers = { { "WWW-Authenticate", [[Bearer error="a",error_description="in the header"]] } } }
    assert.matches("in the body", (fail("unauthorized")), 1, true)
  end)

  it("shows no secret of its challenge", function()
    local id_token = cases.make_jwt '{"sub":"a"}'
    stub:plan { status = 401, body = "", headers = { { "WWW-Authenticate",
      ([[Bearer error="invalid_token",error_description="%s"]]):format(id_token) } } }
    cases.check_failure("unauthorized", { id_token }, icptoken.fetch(cases.options(stub, { id_token = id_token })))
  end)

  it("says nothing about an ID token if a user name and password were sent", function()
    local message = fail("unauthorized", basic())
    assert.not_matches("ID token", message, 1, true)
    assert.matches("user name and password", message, 1, true)
  end)

  it("says so for the request's own ID token", function()
    local client = icptoken.new(cases.options(stub))
    local id_token = cases.make_jwt '{"iat":1000000000,"exp":1000003600}'
    local message = cases.check_failure("unauthorized", { id_token }, client:fetch { id_token = id_token })
    client:close()
    assert.matches("the ID token expired", message, 1, true)
  end)

  it("of an anonymous client says that there was no credential", function()
    assert.matches("without a credential", fail("unauthorized", { id_token = false, anonymous = true }), 1, true)
  end)
end)

describe("a status that was received before its answer failed", function()
  local wrong = {
    { "larger than the limit", { endless = "body", bytes = 3e6 } },
    { "larger than the limit, in chunks", { endless = "body", bytes = 3e6, framing = "chunked" } },
    { "stalling", { body = ("x"):rep(2000), delay = { body = 600 } } },
    { "in an unknown encoding", { body = "abc", headers = { { "Content-Encoding", "x-unknown" } } } },
  }
  for _, case in ipairs(wrong) do
    for status, code in pairs { [401] = "unauthorized", [403] = "forbidden", [404] = "not_found",
      [503] = "server_error",
      [418] = "http_status", [429] = "rate_limited" } do
      it(("is reported despite a body that is %s, %d"):format(case[1], status), function()
        local try = case[2].delay and timing.try or function(body) return body(1) end
        try(function(scale) -- the status has to arrive within the limit
          local order = { status = status }
          for name, value in pairs(case[2]) do order[name] = value end
          stub:reset()
          stub:plan(order)
          local _, details = fail(code, { timeout = case[2].delay and scale or 100, max_body_bytes = 1000 })
          assert.equal(status, details.status)
          assert.equal(status == 503 or status == 429, details.retryable)
        end)
      end)
    end

    it(("is retried if it is transient, with a body that is %s"):format(case[1]), function()
      timing.try(function(scale)
        local order = { status = 503, times = 2 }
        for name, value in pairs(case[2]) do order[name] = value end
        stub:reset()
        stub:plan(order)
        local changes = { retries = 2, max_body_bytes = 100000, timeout = case[2].delay and 4 * scale or 20 }
        assert(icptoken.fetch(cases.options(stub, changes)))
        assert.equal(3, #stub:requests())
      end)
    end)
  end

  it("is retried by fetch_all", function()
    timing.try(function(scale)
      stub:reset()
      stub:plan { status = 503, body = ("x"):rep(2000), delay = { body = 600 }, times = 2 }
      local client = icptoken.new(cases.options(stub, { retries = 1, timeout = 3 * scale }))
      local _, errors = client:fetch_all { {}, {} }
      client:close()
      assert.is_nil(errors)
      assert.equal(4, #stub:requests())
    end)
  end)

  it("leaves time for a new login", function()
    timing.try(function(scale)
      local client = icptoken.new(cases.options(stub, { id_token = false, timeout = 3 * scale,
        login = { username = stub.username, password = stub.password } }))
      assert(client:fetch())
      stub:reset()
      stub:plan { status = 401, body = ("x"):rep(2000), delay = { body = 600 } }
      assert(client:fetch())
      client:close()
      assert.equal(3, #stub:requests()) -- a token, a login, a token
    end)
  end)

  it("is reported at the time limit with the received part of the body, if it is final", function()
    timing.try(function(scale)
      stub:reset()
      stub:plan { status = 403, body = [[{"message":"half]] .. (" "):rep(100), delay = { body = 600 } }
      local message = fail("forbidden", { timeout = scale, retries = 2 })
      assert.matches("half", message, 1, true)
      assert.equal(1, #stub:requests())
    end)
  end)
end)

local BAD_ID_TOKENS = {
  "", " ", "\n", "Bearer ", "bearer \n", "two words", "tok\nen", "tok\r\nX-Injected: 1", "tok\0en", "tok\ten",
  "tok\195\169n", "tok\"en", "tok,en", "tok;en", "tok=en", "=", "Basic abc", "Bearer Bearer abc", "tok\127en", "\0",
  "ID token: abc",
  -- what jq, templates and format strings write for a missing value
  "null", "None", "undefined", "nil", "false", "NULL", "Bearer null", " undefined\n", "[object Object]", "<nil>",
  "(null)",
  "<no value>",
}

describe("an ID token", function()
  for _, id_token in ipairs(BAD_ID_TOKENS) do
    it(("that is %q has code invalid_credential, and nothing is sent"):format(id_token), function()
      local _, details = fail("invalid_credential", { id_token = id_token, retries = 2 })
      assert.equal(0, details.attempts)
      assert.is_false(details.retryable)
      assert.is_nil(details.status)
      assert.same({}, stub:log())
    end)
  end

  it("that is larger than libcurl can send is reported as such, and nothing is sent", function()
    local message, details = fail("invalid_credential", { id_token = ("a"):rep(9e6), retries = 2 })
    assert.matches("longer than 1 MiB", message, 1, true)
    assert.equal(0, details.attempts)
    assert.is_false(details.retryable)
  end)

  it("is not sent with more scopes than libcurl can send", function()
    local scopes = {}
    for n = 1, 10 do scopes[n] = n .. ("a"):rep(1e6) end
    local _, details = fail("resolve", { scope = scopes, retries = 2, timeout = 20 })
    assert.is_false(details.retryable)
    assert.same({}, stub:requests())
  end)

  it("that is a placeholder for a missing value is reported as such", function()
    for _, id_token in ipairs { "null", "Bearer undefined", "[object Object]" } do
      local message = fail("invalid_credential", { id_token = id_token })
      assert.matches("for a missing value", message, 1, true)
    end
    assert.not_equal("invalid_credential", (select(3, icptoken.fetch(cases.options(stub, { id_token = "nullx" })))))
  end)

  it("that is invalid is not quoted", function()
    local message = fail("invalid_credential", { id_token = "my secret token" })
    assert.not_matches("secret", message, 1, true)
  end)

  it("of a request that is invalid is not sent either", function()
    local client = icptoken.new(cases.options(stub))
    cases.check_failure("invalid_credential", secrets, client:fetch { id_token = "two words" })
    client:close()
    assert.same({}, stub:log())
  end)
end)

describe("the message", function()
  it("puts the server's words before the hint, and does not end with a colon", function()
    stub:plan({ status = 404, body = "no such page" }, { status = 404, body = "" })
    local client = icptoken.new(cases.options(stub))
    local url = ("there is nothing at https://localhost:%d/image-manager/api/v1/auth/token (404)"):format(stub.port)
    for _, said in ipairs { ": no such page", "" } do
      local message = cases.check_failure("not_found", { stub.id_token }, client:fetch())
      assert.equal(url .. said .. "; check host and path", message)
    end
    local bodies = { '{"errors":[{}]}', '{"errors":[{"detail":"a"}]}', '{"error":{}}', '{"errors":[1]}', "{}" }
    for _, body in ipairs(bodies) do
      stub:plan { status = 200, body = body }
      local message = cases.check_failure("invalid_response", { stub.id_token }, client:fetch())
      assert.matches("; it %a+: %S.*%S$", message)
    end
    client:close()
  end)

  it("names the endpoint of a url option", function()
    local message = fail("not_found", { host = false, port = false, url = "https://" .. where .. "/elsewhere?a=b" })
    assert.matches("https://" .. where .. "/elsewhere ", message, 1, true)
  end)

  it("is one line, whatever the server says", function()
    fail_with_body("http_status", 400, '{"message":"one\\ntwo\\r\\n\\u2028three\\u0085four\\u001b[2J"}')
  end)

  it("is short, whatever the server says", function()
    for _, status in ipairs { 200, 400, 401, 403, 404, 429, 500 } do
      stub:plan { status = status, body = ("words "):rep(5000) }
      local message = select(2, icptoken.fetch(cases.options(stub)))
      assert.is_true(#message < 600, message)
    end
  end)
end)
