-- No message, detail, statistic or tostring contains a token, a password or an Authorization header, whatever a server
-- sends and however a call fails. Each row below is a way to fail; all its results are searched for all secrets.

local cjson = require "cjson"
local files = require "support.files"
local icptoken = require "icptoken"
local mime = require "mime"
local stub_client = require "stub.client"

local PATH = "/image-manager/api/v1/auth/token"
local LOGIN_PATH = "/idprovider/v1/auth/identitytoken"
local PIECE = 16 -- no part of a secret of this length may be shown either

local OPAQUE = "0paque+ID/token~with_" .. ("Zq7."):rep(12) .. "=="
local REFRESH = "refresh+0paque/token~of_joe_" .. ("Xy5."):rep(12)
local ANSWERED = "answered-0paque/registry+token_" .. ("Wk3."):rep(12)
local ANSWERED_JWT = "eyJhbGciOiJSUzI1NiJ9." .. ("Wm9v"):rep(12) .. "." .. ("c2ln"):rep(12)
local PASSWORD = "correct/horse\"battery?staple>&+%"
local BASIC = mime.b64("joe:" .. PASSWORD)
local PROXY_PASSWORD = "proxy-password-of-joe"
local PROXY_BASIC = mime.b64("joe:" .. PROXY_PASSWORD)
local KEY_PASSWORD = "key-password-not-the-right-one"

local stub
local credentials -- by name: the options, the secrets among them, and the scheme under which the first secret is sent
local pieces

local CREDENTIALS = { "a JWT as ID token", "an opaque ID token", "a user name and password" }

local function encode_percent(text)
  return (text:gsub("[^%w%-._~]", function(c) return ("%%%02X"):format(c:byte()) end))
end

-- The set of all parts of length PIECE.
local function cut_into_pieces(secrets)
  local set = {}
  for _, secret in ipairs(secrets) do
    assert(#secret >= PIECE)
    for at = 1, #secret - PIECE + 1 do set[secret:sub(at, at + PIECE - 1)] = true end
  end
  return set
end

setup(function()
  stub = stub_client.share()
  credentials = {
    ["a JWT as ID token"] = { options = { id_token = stub.id_token }, secrets = { stub.id_token }, scheme = "Bearer" },
    ["an opaque ID token"] = { options = { id_token = OPAQUE }, secrets = { OPAQUE }, scheme = "Bearer" },
    ["a user name and password"] = { options = { username = "joe", password = PASSWORD },
      secrets = { BASIC, PASSWORD }, scheme = "Basic" },
  }
  pieces = cut_into_pieces { stub.id_token, OPAQUE, ANSWERED, REFRESH, PASSWORD, encode_percent(PASSWORD),
    BASIC, PROXY_PASSWORD, PROXY_BASIC,
    KEY_PASSWORD, stub.client_key_password }
end)
teardown(function() stub:stop() end)
before_each(function() stub:reset() end)

-- Appends every string in a value, at every depth, keys too.
local function collect_strings(value, strings)
  if type(value) == "table" then
    for name, member in pairs(value) do
      collect_strings(name, strings)
      collect_strings(member, strings)
    end
  elseif type(value) == "string" then
    strings[#strings + 1] = value
  end
  return strings
end

local function find_secret(text)
  for at = 1, #text - PIECE + 1 do
    local piece = text:sub(at, at + PIECE - 1)
    if pieces[piece] then return piece end
  end
end

local function assert_hidden(what, ...)
  for _, text in ipairs(collect_strings({ ... }, {})) do
    local piece = find_secret(text)
    if piece then error(("%s shows %q in %q"):format(what, piece, text), 0) end
  end
end

local function options(changes)
  local all = { timeout = 60, retries = 0, cacert = stub.ca }
  if not changes.url then all.host, all.port = "localhost", stub.port end
  for name, value in pairs(changes) do all[name] = value or nil end
  return all
end

-- Fetches, which must fail, and searches all results. Returns the code.
local function fail_hidden(what, client, request)
  local token, message, code, details = client:fetch(request)
  assert(token == nil, what .. " did not fail")
  assert_hidden(what, message, code, details, tostring(client), client:stats())
  return code
end

local function fail_with(what, changes, wanted)
  local client = icptoken.new(options(changes))
  local code = fail_hidden(what, client)
  client:close()
  assert_hidden(what, tostring(client))
  assert.equal(wanted, code, what)
end

local function raise_hidden(what, call, ...)
  local ok, problem = pcall(call, ...)
  assert.is_false(ok, what .. " did not raise")
  assert_hidden(what, problem)
end

-- A client over plain http, which avoids hundreds of handshakes.
local function open_client(credential)
  local changes = { url = ("http://127.0.0.1:%d%s"):format(stub.ports.http, PATH), cacert = false }
  for name, value in pairs(credential.options) do changes[name] = value end
  return icptoken.new(options(changes))
end

local STATUSES = { 200, 201, 400, 401, 403, 404, 408, 418, 429, 500, 502, 503, 504 }

-- Each: the form in which the server repeats a secret, and its text for one that it received under the scheme.
local ECHOES = {
  { "as a header", function(secret, scheme) return "you sent Authorization: " .. scheme .. " " .. secret end },
  { "as a header in small letters", function(secret, scheme)
    return "authorization:" .. scheme:lower() .. "  " .. secret
  end },
  { "alone", function(secret) return secret end },
  { "twice without a gap", function(secret) return secret .. secret end },
  { "in HTML", function(secret) return "<html><p title=\"" .. secret .. "\">" .. secret .. "</p></html>\n" end },
  { "at the cut of a sample", function(secret) return ("x"):rep(180) .. " " .. secret end },
  { "after control characters", function(secret) return "\0\1\r\n\27[31m" .. secret .. "\0" .. secret end },
  { "after broken UTF-8", function(secret) return "\255\192\128" .. secret .. "\226\128" end },
  { "in a list of errors", function(secret, scheme)
    local entry = { code = secret, message = scheme .. " " .. secret .. " refused", detail = secret }
    return cjson.encode { errors = { entry, entry } }
  end },
  { "in OAuth's error", function(secret)
    return cjson.encode { error = secret, error_description = "for " .. secret }
  end },
  { "in details", function(secret) return cjson.encode { details = "for " .. secret } end },
  { "in message", function(secret) return cjson.encode { message = ("y"):rep(190) .. secret } end },
  { "in a JSON string", function(secret) return '"' .. secret .. '"' end },
  { "in JSON that is cut short", function(secret) return '{"errors":[{"message":"' .. secret end },
  { "in JSON of an unknown form", function(secret, scheme)
    return cjson.encode { headers = { authorization = scheme .. " " .. secret } }
  end },
  { "percent-encoded", function(secret) return "no such path: /" .. encode_percent(secret) end },
}

describe("a server that repeats", function()
  local function echo_everywhere(name, make_body)
    local credential = credentials[name]
    for _, secret in ipairs(credential.secrets) do
      local body = make_body(secret, credential.scheme)
      for _, status in ipairs(STATUSES) do
        local client = open_client(credential)
        stub:plan { status = status, body = body }
        fail_hidden("status " .. status, client)
        client:close()
      end
    end
  end

  for _, name in ipairs(CREDENTIALS) do
    for _, case in ipairs(ECHOES) do
      it(("%s %s does not have it shown"):format(name, case[1]), function() echo_everywhere(name, case[2]) end)
    end
  end

  it("the JWT of another user does not have it shown", function()
    local other = "eyJhbGciOiJSUzI1NiJ9." .. ("Zm9vYmFy"):rep(20) .. "." .. ("c2lnbmF0"):rep(20)
    local client = open_client(credentials["an opaque ID token"])
    for _, status in ipairs(STATUSES) do
      stub:plan { status = status, body = "for " .. other .. "!" }
      local _, message, _, details = client:fetch()
      for _, text in ipairs(collect_strings({ message, details }, {})) do
        assert.not_matches("Zm9vYmFy", text, 1, true)
        assert.not_matches("c2lnbmF0", text, 1, true)
      end
    end
    client:close()
  end)

  it("the credential of a single request does not have it shown", function()
    local client = open_client(credentials["a JWT as ID token"])
    stub:plan({ status = 403, body = "not " .. OPAQUE }, { status = 403, body = "not " .. PASSWORD })
    fail_hidden("ID token", client, { id_token = OPAQUE })
    fail_hidden("password", client, { username = "joe", password = PASSWORD })
    client:close()
  end)

  it("a credential in a name that announces a secret does not have it shown", function()
    local secret = "hush_hush-id"
    local client = open_client { options = { id_token = secret } }
    for _, form in ipairs { "my_token-%s: abcdef", "token%s='%s'", "id_token_%s-hint=ab", '{"password-%s":"abcdef"}',
      "token: token_%s=abcdef" } do
      stub:plan { status = 403, body = form:gsub("%%s", secret) }
      local _, message, _, details = client:fetch()
      for _, text in ipairs(collect_strings({ message, details }, {})) do
        assert.not_matches(secret, text, 1, true)
      end
    end
    client:close()
  end)

  it("the credential in its headers does not have it shown", function()
    for _, name in ipairs(CREDENTIALS) do
      local credential = credentials[name]
      local client
      for _, secret in ipairs(credential.secrets) do
        for _, header in ipairs { "Retry-After", "Date", "WWW-Authenticate", "Content-Type", "X-Debug" } do
          client = open_client(credential)
          stub:plan { status = 401, body = "", headers = { { header, credential.scheme .. " " .. secret } } }
          fail_hidden(header, client)
          client:close()
        end
        client = open_client(credential)
        stub:plan { raw = "HTTP/1.1 500 " .. secret .. "\r\nContent-Length: 0\r\n\r\n" }
        fail_hidden("reason phrase", client)
        stub:plan { raw = secret .. "\r\n\r\n" }
        fail_hidden("status line", client)
      end
      client:close()
    end
  end)
end)

-- Ways to write a character in another form.
local function write_each(form)
  return function(text)
    return (text:gsub("[^%w]", function(c) return form:format(c:byte()) end))
  end
end

-- The code of a character of more than one byte.
local function read_code(character)
  local code = character:byte() % 2 ^ (7 - #character)
  for at = 2, #character do code = code * 64 + character:byte(at) % 64 end
  return code
end

local function write_characters(write)
  return function(text)
    return (text:gsub("[\194-\244][\128-\191]+", function(character) return write(read_code(character)) end))
  end
end

local write_entities = write_characters(function(code) return ("&#%d;"):format(code) end)
local write_json = write_characters(function(code)
  if code < 0x10000 then return ("\\u%04x"):format(code) end
  code = code - 0x10000
  return ("\\ud%03x\\ud%03x"):format(0x800 + math.floor(code / 1024), 0xC00 + code % 1024)
end)

local ENTITIES = { ["&"] = "&amp;", ["<"] = "&lt;", [">"] = "&gt;", ['"'] = "&quot;", ["'"] = "&apos;" }

local function escape_html(text)
  return (text:gsub("[&<>\"']", ENTITIES))
end

local ESCAPES = {
  { "HTML", escape_html },
  { "HTML with numbers", write_each "&#%d;" },
  { "HTML with hexadecimal numbers", write_each "&#x%X;" },
  { "HTML with characters as numbers", function(text) return write_entities(escape_html(text)) end },
  { "JSON with characters as numbers", write_json },
  { "HTML without semicolons", function(text) return (escape_html(text):gsub(";", "")) end },
  { "HTML in HTML", function(text) return escape_html(escape_html(text)) end },
  { "HTML in JSON", function(text) return (escape_html(text):gsub("&", "\\u0026")) end },
  { "JSON", write_each "\\u%04x" },
  { "JSON in JSON", function(text) return (write_each "\\u%04x"(text):gsub("\\", "\\\\")) end },
  { "a programming language", write_each "\\x%02X" },
  { "a URL", write_each "%%%02X" },
  { "a URL in a URL", function(text) return write_each "%%%02X"(write_each "%%%02X"(text)) end },
  { "a form", function(text) return (write_each "%%%02x"(text):gsub("%%20", "+")) end },
  { "a URL in HTML", function(text) return escape_html(write_each "%%%02X"(text)) end },
}

describe("a server that repeats the values of the option headers", function()
  local KEYS = { ["X-API-Key"] = "api-key-of-joe-0123456789", ["X-Other"] = "ApiKey other/key?of=joe&0123" }

  for many, others in pairs { few = 0, many = 200 } do
    it(("does not have them shown, whether they are few or many: %s"):format(many), function()
      local headers = {}
      for name, value in pairs(KEYS) do headers[name] = value end
      for i = 1, others do headers["X-" .. i] = ("value number %d"):format(i) end
      local client = open_client { options = { id_token = OPAQUE, headers = headers } }
      for _, key in ipairs { KEYS["X-API-Key"], KEYS["X-Other"], KEYS["X-Other"]:match " (.*)" } do
        for _, text in ipairs { key, encode_percent(key), cjson.encode(key) } do
          for _, body in ipairs { "no use of " .. text, cjson.encode { message = "no use of " .. text } } do
            stub:plan { status = 401, body = body }
            local _, message, _, details = client:fetch()
            for _, shown in ipairs(collect_strings({ message, details }, {})) do
              for at = 1, #key - 7 do assert.is_nil(shown:find(key:sub(at, at + 7), 1, true), shown) end
            end
            assert.matches("no use of ", message, 1, true)
          end
        end
      end
      client:close()
    end)
  end
end)

describe("a server that truncates what it repeats", function()
  local FRONT = 24

  for name, secret in pairs { ["an opaque ID token"] = OPAQUE, ["a user name and password"] = BASIC,
    ["a password"] = PASSWORD } do
    for _, mark in ipairs { "...", "\226\128\166", "' (cut off)" } do
      it("has nothing of " .. name .. " shown before " .. mark, function()
        local credential = credentials[name] or credentials["a user name and password"]
        for _, front in ipairs { secret:sub(1, FRONT), encode_percent(secret:sub(1, FRONT)) } do
          local client = open_client(credential)
          stub:plan { status = 401, body = "no use of '" .. front .. mark }
          local _, message = client:fetch()
          assert.is_nil(message:find(front:sub(1, 12), 1, true), message)
          assert.matches("no use of '[hidden]", message, 1, true)
          client:close()
        end
      end)
    end
  end

  it("has nothing of user name and password shown in the other alphabet of base64", function()
    local password = "????>>>>????>>>>"
    local pair = mime.b64("joe:" .. password):gsub("+", "-"):gsub("/", "_")
    local client = open_client { options = { username = "joe", password = password } }
    stub:plan { status = 401, body = "no use of " .. pair }
    local _, message = client:fetch()
    assert.matches("no use of [hidden]", message, 1, true)
    client:close()
  end)
end)

describe("a server whose text is crafted to take time", function()
  local BYTES = 16000
  -- the texts below do not contain any part of it completely
  local LOOPED = ("a"):rep(3500) .. "b"

  -- The seconds of CPU time that a refusal with this text takes.
  local function measure(words)
    local client = open_client { options = { id_token = LOOPED } }
    stub:plan { status = 403, body = cjson.encode { errors = { { code = "DENIED", message = words } } } }
    local before = os.clock()
    local _, message, code = client:fetch()
    local seconds = os.clock() - before
    client:close()
    assert.equal("forbidden", code)
    assert.is_nil(message:find(("a"):rep(PIECE), 1, true))
    return seconds
  end

  local function fill(piece) return "password=" .. piece:rep(math.floor(BYTES / #piece)) .. "c" end

  it("takes about as long as one with ordinary text of that length", function()
    local control = measure(fill "x")
    for _, piece in ipairs { ("a"):rep(3499) .. "c", "a", "%61", "&#x61;" } do
      local seconds = measure(fill(piece))
      assert.is_true(seconds < 20 * control + 0.2, ("%q: %.2f s, and %.3f s"):format(piece, seconds, control))
    end
  end)
end)

describe("a server that repeats, escaped for", function()
  local SPACED = "Gr\195\188n hunter2&co \240\159\152\128 <pass> 'word' =+/~"

  local function check(credential, body, secret)
    for _, status in ipairs(STATUSES) do
      local client = open_client(credential)
      stub:plan { status = status, body = body }
      local _, message, _, details = client:fetch()
      for _, text in ipairs(collect_strings({ message, details }, {})) do
        for at = 1, #secret - 11 do
          local piece = secret:sub(at, at + 11)
          assert(not text:find(piece, 1, true), ("%q in %q"):format(piece, text))
        end
      end
      assert.matches("[hidden]", message, 1, true)
      client:close()
    end
  end

  for _, case in ipairs(ESCAPES) do
    it(case[1] .. " does not get it shown", function()
      for _, credential in ipairs { { username = "joe", password = SPACED }, { username = "joe", password = PASSWORD },
        { id_token = OPAQUE }, { id_token = stub.id_token }, { login = { username = "joe", password = SPACED } } } do
        local secret = credential.password or credential.id_token or credential.login.password
        local escaped = case[2](secret)
        check({ options = credential }, "<p>for " .. escaped .. "</p>", escaped)
        check({ options = credential }, '{"a":"' .. escaped, escaped)
      end
    end)

    it(case[1] .. " a JWT that it alone knows does not get it shown", function()
      local escaped = case[2](ANSWERED_JWT)
      check(credentials["an opaque ID token"], "<p>for " .. escaped .. "</p>", escaped)
    end)

    it(case[1] .. " a short token that it alone knows does not get it shown", function()
      check(credentials["an opaque ID token"], case[2] '<p>{"token":"0pen.Sesame+17/now"}' .. "</p>", "0pen")
    end)
  end

  it("nothing, but in base64, user name and password does not have them shown", function()
    for _, credential in ipairs { { username = "joe", password = SPACED },
      { login = { username = "joe", password = SPACED } } } do
      local pair = mime.b64("joe:" .. SPACED)
      for _, text in ipairs { pair, (pair:gsub("=", "")), "x" .. pair .. "x" } do
        check({ options = credential }, "<p>for " .. text .. "</p>", text:gsub("=", ""))
      end
    end
  end)
end)

describe("a server that answers with data that is not text", function()
  local SHORT = "sh0rt.tok"

  local function run(command, input)
    local path = os.tmpname()
    files.write(path, input)
    local process = assert(io.popen(command .. " <" .. path, "r"))
    local output = process:read "*a"
    process:close()
    os.remove(path)
    return output
  end

  local function gzip(text) return run("gzip -c -n", text) end

  local function widen(text, order)
    return (text:gsub(".", order == "le" and "%0\0" or "\0%0"))
  end

  local function answer(body, encoding, status)
    stub:plan { status = status or 200, body = body, headers = encoding and { { "Content-Encoding", encoding } } }
    local client = open_client(credentials["an opaque ID token"])
    local results = { client:fetch() }
    client:close()
    return results[1], results[2], results[3], results[4]
  end

  it("asks for none of it, and decodes it all the same", function()
    for _, encoding in ipairs { "gzip", "x-gzip" } do
      local token, message = answer(gzip('{"token":"' .. SHORT .. '","expires_in":90}'), encoding)
      assert(token, message)
      assert.equal(SHORT, token.token)
      assert.equal("identity", stub_client.header(stub:last(), "Accept-Encoding"))
    end
  end)

  it("has a compressed refusal read", function()
    local body = gzip '{"errors":[{"code":"DENIED","message":"no such namespace"}]}'
    local _, message, code, details = answer(body, "gzip", 403)
    assert.equal("forbidden", code)
    assert.matches("no such namespace", message, 1, true)
    assert.same({ { code = "DENIED", message = "no such namespace" } }, details.errors)
  end)

  it("has its bytes counted as they are once decoded", function()
    local bomb = gzip(("x"):rep(3 * 2 ^ 20))
    assert.is_true(#bomb < 10000)
    assert.equal("too_large", (select(3, answer(bomb, "gzip"))))
  end)

  local bodies = {
    { "compressed without a word of it", function(body) return gzip(body) end },
    { "in UTF-16", function(body) return "\255\254" .. widen(body, "le") end },
    { "in UTF-16 of the other order", function(body) return "\254\255" .. widen(body, "be") end },
    { "in UTF-16 without a mark", function(body) return widen(body, "le") end },
    { "in UTF-32", function(body) return (body:gsub(".", "%0\0\0\0")) end },
  }
  for _, case in ipairs(bodies) do
    it(case[1] .. " has no sample shown", function()
      for _, status in ipairs { 200, 403, 500 } do
        local body = case[2]('{"tokens":["' .. SHORT .. '"],"x":"' .. SHORT)
        local _, message, _, details = answer(body, nil, status)
        assert.matches(("[%d bytes that are not text]"):format(#body), message, 1, true)
        assert.is_nil(details.errors)
      end
    end)
  end

  it("in JSON strings has none of them shown", function()
    local wide = SHORT:gsub(".", "%0\\u0000")
    local _, message, _, details = answer(('{"errors":[{"code":"A","message":"%s"}]}'):format(wide), nil, 403)
    assert.matches("bytes that are not text]", message, 1, true)
    assert.same({ { code = "A", message = ("[%d bytes that are not text]"):format(2 * #SHORT) } }, details.errors)
  end)

  it("has text in an older encoding shown", function()
    assert.matches("Zugriff verweigert f\\xFCr", (select(2, answer("Zugriff verweigert f\252r", nil, 403))), 1, true)
  end)
end)

describe("a redirect to a URL that contains the credential", function()
  local PLACES = {
    { "as its path", "https://login.example/%s" },
    { "as its query", "https://login.example/path?token=%s" },
    { "as its fragment", "https://login.example/path#%s" },
    { "as its user", "https://%s@login.example/" },
    { "as its password", "https://joe:%s@login.example/" },
    { "and has no scheme", "//joe:%s@login.example/%s" },
    { "and is relative", "%s/%s" },
  }

  local function redirect_to(place, spell)
    for _, name in ipairs(CREDENTIALS) do
      local client = open_client(credentials[name])
      for _, secret in ipairs(credentials[name].secrets) do
        stub:plan { redirect = (place:gsub("%%s", function() return spell(secret) end)) }
        assert.equal("redirect", fail_hidden(name, client))
      end
      client:close()
    end
  end

  for _, case in ipairs(PLACES) do
    it(case[1] .. " does not get it shown", function()
      redirect_to(case[2], tostring)
    end)

    it(case[1] .. ", percent-encoded, does not get it shown", function() redirect_to(case[2], encode_percent) end)
  end

  -- wherever the header's value is truncated, even inside an escape
  for _, spell in ipairs { encode_percent, tostring } do
    local how = spell == encode_percent and ", percent-encoded," or ""

    it("and is longer than what is kept of a header" .. how .. " does not have it shown", function()
      local long = ("Zq+7."):rep(300)
      local client = icptoken.new(options { id_token = long })
      for padding = 1, 8 do
        stub:plan { redirect = "https://login.example/" .. ("p"):rep(padding) .. "/" .. spell(long) }
        local _, message, code = client:fetch()
        assert.equal("redirect", code)
        assert.not_matches("7.Z", message, 1, true)
      end
      client:close()
    end)
  end

  it("of another user, whose name is longer than what is kept of a header, does not have it shown", function()
    stub:plan { redirect = "https://joe:" .. ("stranger"):rep(100) .. "@login.example/" }
    local _, message, code = icptoken.fetch(options { id_token = OPAQUE })
    assert.equal("redirect", code)
    assert.not_matches("stranger", message, 1, true)
  end)
end)

describe("a token in an answer is not shown", function()
  local function fail_on_answers(orders, code)
    local client = open_client(credentials["a JWT as ID token"])
    for i, order in ipairs(orders) do
      stub:plan(order)
      local got = fail_hidden("answer " .. i, client)
      if code then assert.equal(code, got) end
    end
    client:close()
  end

  it("if its lifetime is invalid", function()
    local orders = {}
    for _, expires_in in ipairs { -1, "soon", {} } do
      orders[#orders + 1] = { token = ANSWERED, expires_in = expires_in }
    end
    fail_on_answers(orders, "invalid_response")
  end)

  it("if it has expired", function()
    fail_on_answers({ { expires_in = 0.5, token = ANSWERED, extra = { access_token = ANSWERED } },
      { claims = { iat_in = -100, exp_in = -50 } } })
  end)

  it("if it does not have the form of a token", function()
    fail_on_answers({ { token = ANSWERED .. " and more" }, { token = { ANSWERED } }, { token = ANSWERED .. "\n" } },
      "invalid_response")
  end)

  -- each: the JSON around the token
  for _, form in ipairs {
    '{"token":"%s","expires_in":1800', '{"token":"%s","expires_in":}', '{"expires_in":1e400,"token":"%s"}',
    '{"access_token":"%s"}}', '{"refresh_token": "%s",,}', '{ "token" :\n"%s", nil}', "token=%s&expires_in=1800",
    "{'token': '%s'}", '{"body":"{\\"token\\":\\"%s\\"}"', "ID token:  %s\n",
  } do
    it("if the answer is not JSON: " .. form:gsub("\n", " "), function()
      local client = open_client(credentials["a JWT as ID token"])
      for _, token in ipairs { stub.id_token, ANSWERED } do
        stub:plan { status = 200, body = (form:gsub("%%s", function() return token end)) }
        assert.equal("invalid_response", fail_hidden(form, client))
      end
      client:close()
    end)
  end

  it("if the answer is cut short", function()
    for _, framing in ipairs { "length", "chunked", "close" } do
      local order = { token = ANSWERED, framing = framing }
      local length = stub:render(order).length
      local client = open_client(credentials["a JWT as ID token"])
      for cut = length - 120, length - 3, 9 do
        stub:plan { token = ANSWERED, framing = framing, cut = cut }
        assert.equal("network", fail_hidden(framing .. " cut at " .. cut, client))
      end
      client:close()
    end
  end)

  it("if the answer is too large", function()
    stub:plan { token = ANSWERED }
    fail_with("too large", { id_token = stub.id_token, max_body_bytes = 40 }, "too_large")
  end)
end)

-- Each: how it fails, the options (with every secret that they can contain), the code.
local function list_connection_failures()
  local proxy = "http://joe:" .. PROXY_PASSWORD .. "@127.0.0.1:"
  local through = proxy .. stub.ports.proxy
  local wrong_key = { cert = stub.client_cert, key = stub.client_encrypted_key, key_password = KEY_PASSWORD }
  return {
    { "unknown CA", { port = stub.ports.unknown_ca }, "tls" },
    { "wrong host", { port = stub.ports.wrong_host }, "tls" },
    { "expired certificate", { port = stub.ports.expired }, "tls" },
    { "old TLS", { port = stub.ports.tls11 }, "tls" },
    { "wrong pin", { pinned_public_key = "sha256//" .. ("A"):rep(43) .. "=" }, "tls" },
    { "no client certificate", { port = stub.ports.client_cert }, "tls" },
    { "wrong key password", wrong_key, "tls" },
    { "no TLS there", { port = stub.ports.banner }, "tls" },
    { "unreadable CA", { cacert = "/nonexistent/ca.pem" }, "tls" },
    { "port refuses", { port = stub.ports.refuse }, "connect" },
    { "unknown name", { host = "no-such-host.invalid" }, "resolve" },
    { "no answer", { port = stub.ports.hang, timeout = 0.2 }, "timeout" },
    { "proxy refuses connections", { proxy = proxy .. stub.ports.refuse }, "proxy" },
    { "proxy speaks no HTTP", { proxy = proxy .. stub.ports.https }, "proxy" },
    { "proxy that does not answer", { proxy = proxy .. stub.ports.hang, timeout = 0.2 }, "timeout" },
    { "proxy refuses the tunnel", { proxy = through, host = "denied.test" }, "proxy" },
    { "proxy cannot get there", { proxy = through, port = stub.ports.refuse }, "proxy" },
    { "unknown CA behind a proxy", { proxy = through, port = stub.ports.unknown_ca }, "tls" },
    { "unknown proxy", { proxy = "http://joe:" .. PROXY_PASSWORD .. "@no-such-host.invalid:3128" }, "proxy" },
    { "proxy URL with a space", { proxy = "http://joe:" .. PROXY_PASSWORD .. " x@127.0.0.1:1" }, "proxy" },
    { "proxy URL without a host", { proxy = "http://joe:" .. PROXY_PASSWORD .. "@:1" }, "proxy" },
    { "proxy with a bad port", { proxy = "http://joe:" .. PROXY_PASSWORD .. "@127.0.0.1:99999" }, "proxy" },
    { "proxy over TLS", { proxy = "https://joe:" .. PROXY_PASSWORD .. "@127.0.0.1:" .. stub.ports.unknown_ca },
      "tls" },
  }
end

describe("a connection that fails shows no secret", function()
  for _, name in ipairs(CREDENTIALS) do
    it("with " .. name, function()
      for _, case in ipairs(list_connection_failures()) do
        local changes = {}
        for option, value in pairs(case[2]) do changes[option] = value end
        for option, value in pairs(credentials[name].options) do changes[option] = value end
        fail_with(case[1], changes, case[3])
      end
    end)
  end

  it("if the proxy repeats its password", function()
    for _, status in ipairs { 302, 403, 407, 500 } do
      local said = PROXY_PASSWORD .. " " .. PROXY_BASIC
      stub:plan { listener = "proxy", status = status, body = said, headers = { { "Location", "https://" .. said },
        { "Proxy-Authenticate", 'Basic realm="' .. said .. '"' } } }
      fail_with("status " .. status, { id_token = OPAQUE,
        proxy = "http://joe:" .. PROXY_PASSWORD .. "@127.0.0.1:" .. stub.ports.proxy }, "proxy")
    end
  end)

  it("if the endpoint knows the password of the proxy or of the key and repeats it", function()
    stub:plan { status = 403, body = PROXY_PASSWORD .. " " .. stub.client_key_password }
    local client = icptoken.new(options { id_token = OPAQUE, cert = stub.client_cert, key = stub.client_encrypted_key,
      key_password = stub.client_key_password,
      proxy = "http://joe:" .. PROXY_PASSWORD .. "@127.0.0.1:" .. stub.ports.proxy })
    local _, message = client:fetch()
    assert_hidden("the endpoint", message)
    client:close()
  end)
end)

describe("the endpoint's query", function()
  it("is not shown", function()
    local client = icptoken.new { url = ("https://localhost:%d%s?key=%s"):format(stub.port, PATH, ANSWERED),
      cacert = stub.ca, id_token = OPAQUE, retries = 0 }
    for _, order in ipairs { { status = 404 }, { status = 500 }, { redirect = "/" }, { ["end"] = "reset", cut = 0 } } do
      stub:plan(order)
      fail_hidden("query", client)
    end
    client:close()
  end)
end)

describe("a credential that cannot be sent", function()
  local function write_file(content)
    local path = os.tmpname()
    local file = assert(io.open(path, "wb"))
    file:write(content)
    file:close()
    return path
  end

  for _, bad in ipairs { OPAQUE .. " " .. OPAQUE, OPAQUE .. "\1", "ID token: " .. OPAQUE, "Basic " .. OPAQUE } do
    it("is not shown: " .. ("%q"):format((bad:gsub("0paque%S*", "…"))), function()
      fail_with("ID token", { id_token = bad }, "invalid_credential")
      local path = write_file(bad)
      fail_with("file", { id_token_file = path }, "invalid_credential")
      os.remove(path)
    end)
  end

  it("is not shown if it was passed as the name of a file", function()
    fail_with("file name", { id_token_file = stub.id_token }, "invalid_credential")
  end)
end)

describe("a call that raises shows no secret", function()
  -- each: what is wrong, the options
  local function list_mistakes()
    return {
      { "a user in the url", { url = "https://joe:" .. PROXY_PASSWORD .. "@localhost/", anonymous = true } },
      { "a user in the host", { host = "joe:" .. PROXY_PASSWORD .. "@localhost", anonymous = true } },
      { "a token in the host", { host = OPAQUE, anonymous = true } },
      { "a token in the path", { host = "h", path = "/x?token=" .. OPAQUE, anonymous = true } },
      { "a token as a path", { host = "h", path = OPAQUE, anonymous = true } },
      { "a fragment", { url = "https://localhost/#" .. OPAQUE, anonymous = true } },
      { "another scheme", { url = "ftp://joe:" .. PROXY_PASSWORD .. "@localhost/" .. OPAQUE, anonymous = true } },
      { "two credentials", { host = "h", id_token = OPAQUE, username = "joe", password = PASSWORD } },
      { "a password alone", { host = "h", password = PASSWORD } },
      { "a colon in the user name", { host = "h", username = "joe:" .. PASSWORD, password = PASSWORD } },
      { "a control character in the password", { host = "h", username = "joe", password = PASSWORD .. "\n" } },
      { "a list as password", { host = "h", username = "joe", password = { PASSWORD } } },
      { "a list as ID token", { host = "h", id_token = { OPAQUE } } },
      { "an Authorization header", { host = "h", anonymous = true, headers = { Authorization = OPAQUE } } },
      { "a header's value with a line break", { host = "h", id_token = OPAQUE, headers = { X = OPAQUE .. "\r\n" } } },
      { "a header's name with a space", { host = "h", id_token = OPAQUE, headers = { ["X " .. OPAQUE] = "x" } } },
      { "a control character in the proxy", { host = "h", id_token = OPAQUE, proxy = PROXY_PASSWORD .. "\n" } },
      { "a proxy beside http", { url = "http://localhost/", id_token = OPAQUE,
        proxy = "http://joe:" .. PROXY_PASSWORD .. "@p" } },
      { "a control character in the key password", { host = "h", id_token = OPAQUE,
        key_password = KEY_PASSWORD .. "\n" } },
      { "a key without a certificate", { host = "h", id_token = OPAQUE, key = "k", key_password = KEY_PASSWORD } },
      { "no address", { host = "h", id_token = OPAQUE, resolve = { ["h:1"] = OPAQUE } } },
      { "no key of an address", { host = "h", id_token = OPAQUE, resolve = { [OPAQUE] = "127.0.0.1" } } },
      { "no TLS version", { host = "h", id_token = OPAQUE, tls_min = OPAQUE } },
      { "no number", { host = "h", id_token = OPAQUE, timeout = OPAQUE } },
      { "no port", { host = "h", id_token = OPAQUE, port = OPAQUE } },
      { "no list", { host = "h", id_token = OPAQUE, scope = { [OPAQUE] = OPAQUE } } },
      { "an unknown option", { host = "h", id_token = OPAQUE, passwort = PASSWORD } },
      { "a misplaced value", { host = "h", OPAQUE } },
      { "a token as the name of an option", { host = "h", [stub.id_token] = true } },
      { "a login that is a string", { host = "h", login = "joe:" .. PASSWORD } },
      { "a login without a name", { host = "h", login = { password = PASSWORD } } },
      { "a login with a list", { host = "h", login = { username = "joe", password = { PASSWORD } } } },
      { "a login with a control character", { host = "h",
        login = { username = "joe", password = PASSWORD .. "\n" } } },
      { "a login with more", { host = "h", login = { username = "joe", password = PASSWORD, [OPAQUE] = OPAQUE } } },
      { "a login beside an ID token", { host = "h", id_token = OPAQUE,
        login = { username = "joe", password = PASSWORD } } },
    }
  end

  it("if the options are wrong", function()
    for _, case in ipairs(list_mistakes()) do
      raise_hidden(case[1], icptoken.new, case[2])
      raise_hidden(case[1], icptoken.fetch, case[2])
    end
  end)

  it("if the options are not a table", function()
    raise_hidden("new", icptoken.new, OPAQUE)
    raise_hidden("fetch", icptoken.fetch, OPAQUE)
    raise_hidden("decode", icptoken.decode, { OPAQUE })
    raise_hidden("login", icptoken.login, OPAQUE)
    raise_hidden("challenge", icptoken.challenge, { OPAQUE })
  end)

  it("if the options of a login are wrong", function()
    for _, changes in ipairs {
      { password = PASSWORD .. "\n" }, { password = { PASSWORD } }, { username = "joe:" .. PASSWORD, password = true },
      { scope = OPAQUE }, { id_token = OPAQUE }, { passwort = PASSWORD }, { [OPAQUE] = PASSWORD }, { PASSWORD },
      { url = "https://joe:" .. PROXY_PASSWORD .. "@localhost/" }, { login = { password = PASSWORD } },
    } do
      local wrong = { host = "h", username = "joe", password = PASSWORD }
      for name, value in pairs(changes) do wrong[name] = value end
      raise_hidden("login", icptoken.login, wrong)
    end
  end)

  it("if a request is wrong", function()
    local client = icptoken.new(options { id_token = OPAQUE })
    for _, request in ipairs {
      { id_token = OPAQUE, timeout = 0 }, { id_token = OPAQUE, username = "joe", password = PASSWORD },
      { password = PASSWORD }, { username = "joe", password = PASSWORD .. "\0" }, { id_token_file = OPAQUE },
      { cacert = OPAQUE }, { tokn = OPAQUE }, { OPAQUE }, OPAQUE,
    } do
      raise_hidden("request", client.fetch, client, request)
      raise_hidden("token", client.token, client, request)
      raise_hidden("fetch_all", client.fetch_all, client, { {}, request })
    end
    raise_hidden("fetch_all", client.fetch_all, client, OPAQUE)
    raise_hidden("invalidate", client.invalidate, client, { OPAQUE })
    client:close()
  end)
end)

describe("decode shows no secret", function()
  it("of a string that is not a JWT", function()
    for _, text in ipairs { OPAQUE, stub.id_token:sub(1, -400), stub.id_token .. "." .. OPAQUE, "Bearer " .. OPAQUE,
      "x." .. mime.b64(OPAQUE):gsub("[+/=]", "") .. ".x" } do
      local decoded, message, code, details = icptoken.decode(text)
      assert.is_nil(decoded)
      assert_hidden("decode", message, code, details)
    end
  end)
end)

describe("a client that works", function()
  it("shows no secret in tostring or stats", function()
    local client = icptoken.new(options { username = stub.username, password = stub.password,
      cert = stub.client_cert, key = stub.client_encrypted_key, key_password = stub.client_key_password,
      proxy = "http://joe:" .. PROXY_PASSWORD .. "@127.0.0.1:" .. stub.ports.proxy })
    local token = assert(client:fetch())
    assert_hidden("the client", tostring(client), client:stats())
    for _, text in ipairs(collect_strings({ tostring(client), client:stats() }, {})) do
      assert.not_matches(token.token, text, 1, true)
    end
    client:close()
  end)
end)

-- The options of a login over plain http, with a password that is among the secrets.
local function login_options(changes)
  local all = { url = ("http://127.0.0.1:%d%s"):format(stub.ports.http, LOGIN_PATH), username = "joe",
    password = PASSWORD, timeout = 60, retries = 0 }
  for name, value in pairs(changes or {}) do all[name] = value or nil end
  return all
end

local function fail_login_hidden(what, changes)
  local answer, message, code, details = icptoken.login(login_options(changes))
  assert(answer == nil, what .. " did not fail")
  assert_hidden(what, message, code, details)
  return code
end

local function open_login_client()
  return icptoken.new { url = ("http://127.0.0.1:%d%s"):format(stub.ports.http, PATH), timeout = 60, retries = 0,
    login = { username = "joe", password = PASSWORD } }
end

local function plan_login()
  stub:plan { path = LOGIN_PATH, status = 200, body = cjson.encode { id_token = ANSWERED, access_token = ANSWERED,
    refresh_token = REFRESH, expires_in = 60 } }
end

describe("an identity provider that repeats", function()
  for _, case in ipairs(ECHOES) do
    it(("the password or the form %s does not have it shown"):format(case[1]), function()
      local form = "grant_type=password&username=joe&password=" .. encode_percent(PASSWORD) .. "&scope=openid"
      for _, secret in ipairs { PASSWORD, form, "password=" .. PASSWORD } do
        local body = case[2](secret, "Basic")
        for _, status in ipairs { 200, 400, 401, 403, 500 } do
          stub:plan { path = LOGIN_PATH, status = status, body = body, times = 2 }
          fail_login_hidden("status " .. status)
          local client = open_login_client()
          fail_hidden("client, status " .. status, client)
          client:close()
        end
      end
    end)
  end

  it("the password in its headers does not have it shown", function()
    for _, secret in ipairs { PASSWORD, encode_percent(PASSWORD) } do
      for _, header in ipairs { "Retry-After", "WWW-Authenticate", "Location", "Set-Cookie" } do
        stub:plan { status = 401, headers = { { header, secret } } }
        fail_login_hidden(header)
      end
      stub:plan { redirect = "https://joe:" .. secret .. "@login.example/" .. secret .. "?" .. secret }
      assert.equal("redirect", fail_login_hidden "redirect")
      stub:plan { raw = secret .. "\r\n\r\n" }
      fail_login_hidden("status line")
    end
  end)
end)

describe("the answer of the identity provider is not shown", function()
  for _, form in ipairs {
    '{"id_token":"%s"', '{"id_token":"%s and more","refresh_token":"%s"}', '{"id_token":["%s"]}',
    '{"access_token":"%s","refresh_token":"%s"}', '{"id_token":"%s","expires_in":-1}',
    '{"id_token":"%s","expires_in":"%s"}', '{"refresh_token": "%s",,}', "id_token=%s&refresh_token=%s",
    '["%s"]', "ID token:  %s\n", '{"id_token":"%s","n":1e400}',
  } do
    it("if it has the form " .. form:gsub("%c", " "), function()
      local client = open_login_client()
      for _, secret in ipairs { stub.id_token, form:find "^%[" and stub.id_token or ANSWERED } do
        local body = form:gsub("%%s", function() return secret end)
        stub:plan { path = LOGIN_PATH, status = 200, body = body, times = 2 }
        assert.equal("invalid_response", fail_login_hidden(form))
        assert.equal("invalid_response", fail_hidden(form, client))
      end
      client:close()
    end)
  end

  it("if the token endpoint repeats it", function()
    for _, case in ipairs(ECHOES) do
      for _, status in ipairs { 200, 401, 403, 500 } do
        local client = open_login_client()
        plan_login()
        stub:plan { path = PATH, status = status, body = case[2](ANSWERED, "Bearer") }
        fail_hidden(case[1], client)
        client:close()
        stub:reset()
      end
    end
  end)

  it("if the token endpoint repeats the password", function()
    local client = open_login_client()
    plan_login()
    for _, case in ipairs(ECHOES) do
      stub:plan { path = PATH, status = 403, body = case[2](PASSWORD, "Basic") }
      fail_hidden(case[1], client)
    end
    client:close()
  end)

  it("if a new ID token is refused as the old one was", function()
    local client = open_login_client()
    plan_login()
    plan_login()
    stub:plan { path = PATH, status = 401, body = ANSWERED, times = "forever" }
    assert.equal("unauthorized", fail_hidden("first", client))
    assert.equal("unauthorized", fail_hidden("second", client))
    client:close()
  end)
end)

describe("a login's connection that fails shows no secret", function()
  it("for any reason", function()
    for _, case in ipairs(list_connection_failures()) do
      local changes = { url = false, host = "localhost", port = stub.port, cacert = stub.ca }
      for name, value in pairs(case[2]) do changes[name] = value end
      assert.equal(case[3], fail_login_hidden(case[1], changes))
    end
  end)
end)

describe("fetch_all shows no secret", function()
  local function fail_all_hidden(what, client)
    local tokens, errors = client:fetch_all { {}, { scope = "a:b:c" }, {} }
    assert.same({ false, false, false }, tokens)
    assert_hidden(what, errors, tostring(client), client:stats())
  end

  for _, name in ipairs(CREDENTIALS) do
    it("with " .. name .. " that is repeated", function()
      local credential = credentials[name]
      for _, case in ipairs(ECHOES) do
        for _, status in ipairs { 200, 401, 403, 503 } do
          local client = open_client(credential)
          stub:reset()
          stub:plan { status = status, body = case[2](credential.secrets[1], credential.scheme), times = 3 }
          fail_all_hidden(case[1], client)
          client:close()
        end
      end
    end)
  end

  it("with a login", function()
    local client = open_login_client()
    plan_login()
    stub:plan { path = PATH, status = 401, body = ANSWERED .. " " .. PASSWORD, times = "forever" }
    stub:plan { path = LOGIN_PATH, status = 401, body = encode_percent(PASSWORD) .. PASSWORD, times = "forever" }
    fail_all_hidden("tokens", client)
    local tokens, message, code, details = client:fetch_all { {}, {} }
    assert.is_nil(tokens)
    assert_hidden("remembered", message, code, details)
    client:close()
  end)
end)

describe("an id_token function shows no secret", function()
  -- each: what the function returns
  for what, returned in pairs {
    ["a message with a JWT"] = function() return nil, "refused " .. stub.id_token .. "!" end,
    ["a message that is a JWT"] = function() return nil, stub.id_token end,
    ["a message with a header"] = function() return nil, "Authorization: Bearer " .. OPAQUE end,
    ["a message with a field"] = function() return nil, '{"id_token":"' .. OPAQUE .. '"}' end,
    ["a long message"] = function() return nil, ("x"):rep(190) .. stub.id_token end,
    ["two words"] = function() return OPAQUE .. " " .. OPAQUE end,
    ["a header line"] = function() return "Authorization: Bearer " .. OPAQUE end,
    ["a table"] = function() return { OPAQUE } end,
    ["nil and a table"] = function() return nil, { OPAQUE } end,
    ["a JWT and a line break"] = function() return stub.id_token .. "\n" .. stub.id_token end,
  } do
    it("if it returns " .. what, function()
      local client = open_client { options = { id_token = returned } }
      assert.equal("invalid_credential", fail_hidden(what, client))
      local token, message, code, details = client:token()
      assert.is_nil(token)
      assert_hidden(what, message, code, details)
      token, message, code, details = client:fetch_all { {} }
      assert.is_nil(token)
      assert_hidden(what, message, code, details)
      client:close()
    end)
  end

  it("if its result is repeated", function()
    local client = open_client { options = { id_token = function() return OPAQUE end } }
    for _, case in ipairs(ECHOES) do
      stub:plan { status = 403, body = case[2](OPAQUE, "Bearer") }
      assert.equal("forbidden", fail_hidden(case[1], client))
    end
    client:close()
  end)
end)

describe("a challenge that cannot be used", function()
  it("is not shown", function()
    for _, value in ipairs { OPAQUE, "Bearer " .. OPAQUE .. "\0", 'Bearer realm="' .. OPAQUE, "Basic " .. OPAQUE,
      "Bearer realm=" .. stub.id_token .. ",realm=x", stub.id_token } do
      local challenge, message, code, details = icptoken.challenge(value)
      assert.is_nil(challenge)
      assert_hidden("challenge", message, code, details)
    end
  end)
end)

describe("a client that keeps tokens", function()
  it("shows no secret in tostring or stats, or if it returns an old one", function()
    local client = open_login_client()
    plan_login()
    stub:set { id_tokens = { ANSWERED } }
    stub:plan { path = PATH, token = REFRESH }
    local token = assert(client:token())
    assert.equal(REFRESH, token.token)
    assert_hidden("the client", tostring(client), client:stats())
    assert_hidden("invalidate", client:invalidate(OPAQUE), client:invalidate(REFRESH))
    client:close()
  end)
end)
