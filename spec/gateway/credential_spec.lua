-- Credentials: the forms that a request may use, what the endpoint receives, and what is refused.

local cases = require "support.cases"
local gateway_bed = require "support.gateway_bed"
local load = require "support.load"
local mime = require "mime"
local stub_client = require "stub.client"

local TARGET = "/v2/a/manifests/1"

local function basic(text)
  return "Basic " .. ((mime.b64(text)) or "")
end

-- The Authorization values that the endpoint received.
local function list_asked(bed)
  local list = {}
  for i, request in ipairs(bed.stub:requests()) do list[i] = stub_client.header(request, "Authorization") end
  return list
end

local function ask(bed, gate, authorization, headers)
  local request = bed:request(TARGET, "GET", headers)
  request.headers.Authorization = authorization
  return load.request(gate.port, request)
end

-- Checks that the gateway refused the request itself, without a token request.
local function assert_refused(bed, answer, detail)
  assert.equal(401, answer.status, answer.problem or answer.body)
  assert.equal(detail, (select(2, gateway_bed.read_error(answer))))
  assert.same({}, list_asked(bed))
end

-- An ID token with these claims, which the stub accepts.
local function issue(bed, claims, ...)
  local id_token = cases.make_jwt(claims:format(...))
  bed.stub:set { id_tokens = { id_token } }
  return id_token
end

describe("a credential", function()
  local bed, gate

  setup(function()
    bed = gateway_bed.open()
    gate = bed:start()
  end)
  teardown(function() gateway_bed.close(bed) end)
  before_each(function() bed.stub:reset() end)

  it("is an ID token, however its scheme is written", function()
    local id_token = issue(bed, '{"sub":"joe"}')
    for _, scheme in ipairs { "Bearer ", "bearer ", "BEARER ", "bEaReR ", "Bearer   ", "bearer  " } do
      assert.equal(200, ask(bed, gate, scheme .. id_token).status)
      assert.equal(200, ask(bed, gate, scheme .. id_token .. "  ").status)
    end
    assert.same({ "Bearer " .. id_token }, list_asked(bed))
  end)

  it("is a user name and a password, however the scheme is written", function()
    for _, scheme in ipairs { "Basic", "basic", "BASIC", "bAsIc", "Basic  " } do
      assert.equal(200, ask(bed, gate, (basic "admin:admin":gsub("Basic", scheme))).status)
    end
    assert.same({ basic "admin:admin" }, list_asked(bed))
  end)

  for user, password in pairs { joe = "with:colons::", ["j o e"] = " ", ["jos\195\169"] = "\195\188ber",
    ["a@b.example"] = '"\\,;=', ["joe\255"] = "\254" } do
    it(("is sent to the endpoint unchanged: %q"):format(user .. ":" .. password), function()
      local text = user .. ":" .. password
      ask(bed, gate, basic(text))
      assert.same({ basic(text) }, list_asked(bed))
    end)
  end

  it("of another user gets another token", function()
    bed.stub:set { users = { joe = "1", ann = "2" } }
    local subjects = {}
    for i, text in ipairs { "joe:1", "ann:2", "joe:1" } do
      subjects[i] = gateway_bed.read_claims(ask(bed, gate, basic(text))).sub
    end
    assert.same({ "joe", "ann", "joe" }, subjects)
    assert.equal(401, ask(bed, gate, basic "joe:2").status)
  end)

  it("may be missing", function()
    assert_refused(bed, load.request(gate.port, { target = TARGET }), "no_credential")
    assert_refused(bed, ask(bed, gate, ""), "no_credential")
    assert_refused(bed, ask(bed, gate, "   "), "no_credential")
    -- what skopeo sends if it has none
    assert_refused(bed, ask(bed, gate, basic ":"), "no_credential")
  end)

  for _, value in ipairs {
    "Bearer", "Bearer ", "Basic", "Basic ", "bearer", "Bearer a b", "Bearer a,b", "Bearer a=b", "Bearer =",
    "Bearer \195\169", 'Bearer "a"', "Bearer a\1b", "Bearer a\127", "Bearer a\255", "Bearer\ta", "Bearera", "a", "a b",
    "Basic YWI6Yw", "Basic YWI6Yw=", "Basic YWI6Yx==", "Basic YWI6Yw==1", "Basic YWI6Yw==YWI6Yw==", "Basic YWI6Yw===",
    "Basic YWI6YwA=", "Basic YW I6Yw==", "Bearer e30.e30.YQ=", "Bearer e30.e30.YQ==", "Bearer e30.e30.YR",
    "Bearer e30.e30.YWJ", "Bearer e30.e30.YWJjZ", "Bearer e30.e30.YWI=======",
    "Digest username=a", "Negotiate YWJj", "Token a", "Basic a b", "Basic !!!!", "Basic YQ", "Basic \255\254\253",
    "Basic\tYTpi", "Basic YTpi, Bearer a", "\255\254", "\1\2\3", ":", "=", ",", "Bearer:a", "Basic=YTpi",
    basic "", basic "nocolon", basic "\255\254\253", basic "a\0b:c", basic "a:b\0", basic "a:b\r\nX: y", basic "a:\127",
    basic "\1:b",
  } do
    it(("is not %q"):format(value), function()
      assert_refused(bed, ask(bed, gate, value), "invalid_credential")
    end)
  end

  for _, text in ipairs { "admin:", ":admin" } do
    it(("is not %q in Basic, and nothing is logged"):format(text), function()
      assert_refused(bed, ask(bed, gate, basic(text)), "invalid_credential")
      assert.is_nil(gate:log():find("[error]", 1, true))
    end)
  end

  it("of 100 kilobytes is refused by nginx", function()
    for _, scheme in ipairs { "Bearer ", "Basic " } do
      local answer = ask(bed, gate, scheme .. ("x"):rep(100000))
      assert.equal(400, answer.status)
      assert.is_false((pcall(gateway_bed.read_echo, answer)))
    end
    assert.same({}, list_asked(bed))
  end)

  it("may be as long as nginx permits", function()
    local long = bed:start {
      gateway = [[url = "http://127.0.0.1:@PORTENDPOINT@/", host = NONE, port = NONE]],
      servers = [[server {
        listen 127.0.0.1:@PORTENDPOINT@;
        location / {
          content_by_lua_block {
            ngx.print('{"expires_in":60,"token":"of.', #ngx.var.http_authorization, '"}')
          }
        }
      }]],
    }
    local authorization = "Bearer " .. ("x"):rep(32000)
    local answer = ask(bed, long, authorization)
    assert.equal("Bearer of." .. #authorization, gateway_bed.read_echo(answer).headers.authorization)
    long:stop()
  end)

  it("must not occur twice", function()
    local id_token = issue(bed, '{"sub":"twice"}')
    for _, first in ipairs { "Bearer " .. id_token, "", "Basic x" } do
      local answer = ask(bed, gate, { first, "Bearer " .. id_token })
      assert.equal(400, answer.status)
      assert.is_false((pcall(gateway_bed.read_echo, answer)))
    end
    assert.same({}, list_asked(bed))
  end)

  it("has only one spelling, so there is no other key and no other token request", function()
    bed.stub:set { users = { joe = "right" } }
    local target = "/v2/spelling/manifests/1"
    local known, refused = basic "joe:right", basic "joe:wrong"
    local request = bed:request(target)
    for _, credential in ipairs { known, refused } do
      bed.stub:reset()
      bed.stub:set { users = { joe = "right" } }
      for i = 0, 49 do
        request.headers.Authorization = i == 0 and credential or credential .. ("="):rep(i % 4) .. i
        assert.equal(i == 0 and credential == known and 200 or 401, load.request(gate.port, request).status)
      end
      assert.same({ credential }, list_asked(bed))
    end
  end)

  it("that the endpoint does not know is refused", function()
    local answer = ask(bed, gate, "Bearer " .. cases.make_jwt '{"sub":"nobody"}')
    assert.equal(401, answer.status)
    assert.equal("unauthorized", (select(2, gateway_bed.read_error(answer))))
    assert.equal(1, #list_asked(bed))
  end)
end)

describe("an ID token", function()
  local bed, gate

  setup(function()
    bed = gateway_bed.open()
    gate = bed:start { gateway = [[token_user = "token"]] }
  end)
  teardown(function() gateway_bed.close(bed) end)
  before_each(function() bed.stub:reset() end)

  -- how it is sent
  local ways = {
    { "Bearer", function(id_token) return "Bearer " .. id_token end },
    { "the password of token_user", function(id_token) return basic("token:" .. id_token) end },
  }
  for _, way in ipairs(ways) do
    local write = way[2]

    describe("as " .. way[1], function()
      it("gets a token", function()
        local id_token = issue(bed, '{"sub":"%s"}', way[1])
        assert.equal(200, ask(bed, gate, write(id_token)).status)
        assert.same({ "Bearer " .. id_token }, list_asked(bed))
      end)

      it("that has expired is refused without a token request", function()
        assert_refused(bed, ask(bed, gate, write(issue(bed, '{"iat":1,"exp":2}'))), "unauthorized")
        assert_refused(bed, ask(bed, gate, write(issue(bed, '{"exp":%d}', os.time() - 1))), "unauthorized")
      end)

      -- values of exp that are ignored
      for _, claims in ipairs { '{"iat":%d,"exp":%d}', '{"iat":%d}', '{"iat":%d,"exp":"1"}', '{"iat":%d,"exp":null}',
        '{"iat":%d,"exp":1}' } do
        it("is not refused because of " .. claims, function()
          local now = os.time() - 5
          assert.equal(200, ask(bed, gate, write(issue(bed, claims, now, now))).status)
        end)
      end

      it("that is not a JWT is left to the endpoint", function()
        local id_token = way[1]:gsub("%A", "") .. ".opaque-_~+/=="
        bed.stub:set { id_tokens = { id_token } }
        assert.equal(200, ask(bed, gate, write(id_token)).status)
      end)

      it("limits the lifetime of the token that was issued for it", function()
        local ends = os.time() + 4
        local id_token = issue(bed, '{"iat":%d,"exp":%d}', ends - 60, ends)
        local served, refused = 0, nil
        gateway_bed.await("its expiry", function()
          local started = os.time()
          local answer = ask(bed, gate, write(id_token))
          if answer.status ~= 200 then refused = answer return true end
          served = served + 1
          assert.is_true(started < ends)
        end)
        assert.is_true(served > 1)
        -- the stub would still accept it
        assert.equal("unauthorized", (select(2, gateway_bed.read_error(refused))))
        local asked = #list_asked(bed)
        assert.equal(401, ask(bed, gate, write(id_token)).status)
        assert.equal(asked, #list_asked(bed))
      end)
    end)
  end

  it("as the password of another user is a password", function()
    local text = "tokens:" .. cases.make_jwt '{"iat":1,"exp":2}'
    ask(bed, gate, basic(text))
    assert.same({ basic(text) }, list_asked(bed))
  end)

  it("as token_user's password must be an ID token", function()
    for _, password in ipairs { "", "a b", "\195\169", "a=b" } do
      assert_refused(bed, ask(bed, gate, basic("token:" .. password)), "invalid_credential")
    end
  end)
end)

describe("the function 'credential'", function()
  local bed, gate

  setup(function()
    bed = gateway_bed.open()
    -- the request contains the Lua code of the function
    gate = bed:start { gateway = [[token_user = "token",
      credential = function() return loadstring(ngx.var.http_x_credential, "=header")() end]] }
  end)
  teardown(function() gateway_bed.close(bed) end)
  before_each(function() bed.stub:reset() end)

  local function ask_with(code, ...)
    return ask(bed, gate, bed.credential, { ["X-Credential"] = code:format(...) })
  end

  it("may return an ID token", function()
    local id_token = issue(bed, '{"sub":"function"}')
    assert.equal(200, ask_with("return { id_token = %q }", id_token).status)
    assert.same({ "Bearer " .. id_token }, list_asked(bed))
  end)

  it("may return an ID token with white space and a scheme, as from a file or a command", function()
    local id_token = issue(bed, '{"sub":"file"}')
    for _, text in ipairs { [[%s\n]], [[ \t%s \r\n]], "Bearer %s", [[bearer  %s\n]] } do
      assert.equal(200, ask_with('return { id_token = "%s" }', text:format(id_token)).status)
    end
    assert.same({ "Bearer " .. id_token }, list_asked(bed))
  end)

  it("may return a user name and a password", function()
    assert.equal("admin", gateway_bed.read_claims(ask_with 'return { username = "admin", password = "admin" }').sub)
    assert.same({ basic "admin:admin" }, list_asked(bed))
  end)

  it("is not subject to token_user", function()
    ask_with('return { username = "token", password = %q }', bed.stub.id_token)
    assert.same({ basic("token:" .. bed.stub.id_token) }, list_asked(bed))
  end)

  it("has the request refused if it returns nil", function()
    assert_refused(bed, ask_with "return nil", "no_credential")
    assert_refused(bed, ask_with "", "no_credential")
  end)

  it("may return an ID token that has expired", function()
    assert_refused(bed, ask_with("return { id_token = %q }", cases.make_jwt '{"iat":1,"exp":2}'), "unauthorized")
  end)

  for _, code in ipairs { 'return { id_token = "" }', [[return { id_token = "Bearer \n" }]],
    [[return { id_token = " \t\n" }]], 'return { id_token = "Bearer \t" }',
    'return { id_token = "a b" }', [[return { id_token = "a\r\nb" }]],
    [[return { username = "a\0", password = "b" }]], [[return { username = "a", password = "b\n" }]],
    [[return { username = "a:b", password = "c" }]], [[return { username = "", password = "b" }]],
    [[return { username = "a", password = "" }]] } do
    it("returns an invalid credential with " .. code, function()
      assert_refused(bed, ask_with(code), "invalid_credential")
    end)
  end

  for _, code in ipairs { "return 1", 'return "Bearer a"', "return true", "return false", "return {}",
    "return { id_token = 1 }", 'return { username = "a" }', 'return { password = "a" }', 'return { "a", "b" }',
    'return { username = "a", password = 1 }', "return print", 'error "hush"', "error { hush = 1 }", "error()",
    "return nil .. nil", "ngx.sleep('x')" } do
    it("fails closed with " .. code, function()
      local answer = ask_with(code)
      assert.equal(500, answer.status)
      assert.equal("UNKNOWN", (gateway_bed.read_error(answer)))
      assert.same({}, list_asked(bed))
      assert.is_nil(gate:log():find("hush", 1, true))
    end)
  end
end)

describe("a function of the user that fails", function()
  local bed, gate

  setup(function()
    bed = gateway_bed.open()
    gate = bed:start { workers = 1, gateway = [[
        credential = function() return loadstring(ngx.var.http_x_credential, "=header")() end,
        client_address = function() return loadstring(ngx.var.http_x_address or "", "=header")() end]],
      locations = [[
        location /v2/limited/ {
          set $icptoken_authorization "";
          set $icptoken_key "";
          set_by_lua_block $limit { return gateway:limit_key() }
          access_by_lua_block { gateway:authorize() }
          header_filter_by_lua_block { gateway:observe() }
          proxy_pass http://registry;
        }
      ]] }
  end)
  teardown(function() gateway_bed.close(bed) end)

  -- The functions are called for limit_key and again for authorize. Returns how many lines with these words were logged
  -- for this many requests.
  local function count_lines(words, requests, headers)
    local before = select(2, gate:log():gsub(words, ""))
    for i = 1, requests do
      local target = ("/v2/limited/%s%d/manifests/1"):format(words:match "%a+", i)
      load.request(gate.port, bed:request(target, "GET", headers))
    end
    return select(2, gate:log():gsub(words, "")) - before
  end

  it("is logged once for each request", function()
    assert.equal(3, count_lines("'credential' raised an error at header:1", 3, { ["X-Credential"] = "error 'hush'" }))
    assert.equal(3, count_lines("'credential' must return", 3, { ["X-Credential"] = "return 1" }))
    local unknown = ("return { id_token = %q }"):format(cases.make_jwt '{"sub":"nobody"}')
    assert.equal(3, count_lines("'client_address' raised an error at header:1", 3,
      { ["X-Credential"] = unknown, ["X-Address"] = "error 'hush'" }))
  end)
end)
