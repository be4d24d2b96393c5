-- gateway:token returns a token in every phase in which nginx permits waiting; gateway:login is the token service to
-- which a Bearer challenge refers clients.

local cases = require "support.cases"
local cjson = require "cjson"
local gateway_bed = require "support.gateway_bed"
local gateway_probe = require "support.gateway_probe"
local icptoken = require "icptoken"
local load = require "support.load"
local mime = require "mime"
local socket_url = require "socket.url"
local stub_client = require "stub.client"

local LOGIN_PATH = "/idprovider/v1/auth/identitytoken"

-- Locations that call gateway:token with what the request says in Lua, in different phases, and print what it returned.
local CALLS = [[
  set $icptoken_authorization "";
  set $icptoken_key "";
  set $result "";
  location = /content {
    content_by_lua_block { ngx.print(call(ngx.var.http_x_call), "\n", ngx.var.icptoken_authorization) }
  }
  location = /rewrite {
    rewrite_by_lua_block { ngx.var.result = call(ngx.var.http_x_call) }
    content_by_lua_block { ngx.print(ngx.var.result, "\n", ngx.var.icptoken_authorization) }
  }
  location = /access {
    access_by_lua_block { ngx.var.result = call(ngx.var.http_x_call) }
    content_by_lua_block { ngx.print(ngx.var.result, "\n", ngx.var.icptoken_authorization) }
  }
  location = /timer {
    content_by_lua_block {
      local code, result = ngx.var.http_x_call, nil
      ngx.timer.at(0, function() result = call(code) end)
      repeat ngx.sleep(0.01) until result
      ngx.print(result, "\n")
    }
  }
]]

-- Runs in init_by_lua, as part of the options.
local DEFINE_CALL = [[
  name = (function()
    local cjson = require "cjson"
    function call(code)
      local results = { pcall(function() return gateway:token(loadstring("return " .. code, "=header")()) end) }
      for i = 1, 5 do
        if results[i] == nil then results[i] = cjson.null end
      end
      return cjson.encode(results)
    end
    return "gate"
  end)()
]]

describe("gateway:token", function()
  local bed, gate

  setup(function()
    bed = gateway_bed.open()
    gate = bed:start { gateway = DEFINE_CALL, locations = CALLS }
  end)
  teardown(function() gateway_bed.close(bed) end)
  before_each(function()
    bed.stub:reset()
    load.request(gate.port, { target = "/empty" })
  end)

  -- What it returned, nil for null.
  local function call(code, target)
    local answer = load.request(gate.port, { target = target or "/content", headers = { ["X-Call"] = code } })
    assert.equal(200, answer.status, answer.body)
    local line, authorization = answer.body:match "^([^\n]*)\n(.*)$"
    assert.equal("", authorization)
    local results = cjson.decode(line)
    for i = 1, 5 do
      if results[i] == cjson.null then results[i] = nil end
    end
    return results[1], results[2], results[3], results[4], results[5]
  end

  local function write(more, ...)
    return ("{ id_token = %q, %s }"):format(bed.stub.id_token, more:format(...))
  end

  local function read_access(jwt)
    assert.matches("^eyJ", jwt)
    local access = assert(icptoken.decode(jwt)).claims.access
    return access and access[1] and access[1].name
  end

  for _, phase in ipairs { "content", "rewrite", "access", "timer" } do
    it("returns a token in the phase of " .. phase, function()
      local code = write('scope = "repository:%s:pull"', phase)
      local ok, jwt, source = call(code, "/" .. phase)
      assert.is_true(ok, jwt)
      assert.equal(phase, read_access(jwt))
      assert.equal("fresh", source)
      assert.same({ true, jwt, "cached" }, { call(code, "/" .. phase) })
      assert.equal(1, #bed.stub:requests())
    end)
  end

  it("shares tokens with the requests that are passed on", function()
    load.request(gate.port, bed:request "/v2/shared/manifests/1")
    assert.equal("cached", (select(3, call(write 'scope = "repository:shared:pull"'))))
    assert.equal("cached", (select(3, call(write 'scope = { "repository:shared:pull" }'))))
    assert.equal(1, #bed.stub:requests())
    call(write "")
    assert.equal(200, load.request(gate.port, bed:request "/v2/").status)
    assert.equal(2, #bed.stub:requests())
  end)

  it("shares one token request among many", function()
    local code = write 'scope = "repository:many:pull"'
    bed.stub:plan { delay = { before = 0.2 } }
    local answers = load.run(gate.port, 100, function()
      return { target = "/content", headers = { ["X-Call"] = code } }
    end)
    local jwts = {}
    for _, answer in ipairs(answers) do jwts[cjson.decode(answer.body:match "^[^\n]*")[2]] = true end
    assert.is_string(next(jwts))
    assert.is_nil(next(jwts, (next(jwts))))
    assert.equal(1, #bed.stub:requests())
  end)

  it("accepts a user name and a password", function()
    local ok, jwt = call '{ username = "admin", password = "admin", scope = "repository:a:pull" }'
    assert.is_true(ok)
    assert.equal("admin", icptoken.decode(jwt).claims.sub)
    assert.equal("Basic YWRtaW46YWRtaW4=", stub_client.header(bed.stub:last(), "Authorization"))
  end)

  it("uses the fields of the request in place of the gateway's options", function()
    local scopes = [[scope = { "repository:b:push", "repository:a:pull" }]]
    local _, jwt = call(write(scopes
      .. ', service = "other", account = "acc", client_id = "cli", offline_token = true'))
    assert.equal("other", icptoken.decode(jwt).claims.aud)
    local query = bed.stub:last().query
    assert.same({ service = { "other" }, account = { "acc" }, client_id = { "cli" }, offline_token = { "true" },
      scope = { "repository:a:pull", "repository:b:push" } }, query)
    call(write(scopes))
    assert.same({ "token-service" }, bed.stub:last().query.service)
  end)

  -- an order of the stub, the code, Retry-After
  for _, case in ipairs {
    { { status = 401 }, "unauthorized" }, { { status = 403 }, "forbidden" }, { { status = 500 }, "server_error" },
    { { status = 429, headers = { { "Retry-After", "7" } } }, "rate_limited", 7 },
    { { body = "hush" }, "invalid_response" },
  } do
    it("fails with " .. case[2], function()
      bed.stub:plan(case[1])
      local ok, jwt, message, code, details = call(write('scope = "repository:fails-%d:pull"', case[1].status or 200))
      assert.is_true(ok)
      assert.is_nil(jwt)
      assert.is_string(message)
      assert.is_nil(message:find("hush", 1, true))
      assert.equal(case[2], code)
      assert.same({ retry_after = case[3] }, details)
    end)
  end

  it("requests no token with an ID token that has expired or is malformed", function()
    local ended = cases.make_jwt '{"iat":1,"exp":2}'
    for id_token, code in pairs { [ended] = "unauthorized", ["a b"] = "invalid_credential" } do
      assert.equal(code, (select(4, call(("{ id_token = %q }"):format(id_token)))))
    end
    assert.same({}, bed.stub:requests())
  end)

  for code, words in pairs {
    ["nil"] = "table", ["'text'"] = "table", ["{}"] = "id_token", ["{ username = 'a' }"] = "password",
    ["{ id_token = 1 }"] = "id_token", ["{ id_token = 'a', scope = 1 }"] = "scope",
    ["{ id_token = 'a', scope = { 1 } }"] = "scope", ["{ id_token = 'a', scope = { a = 'b' } }"] = "scope",
    ["{ id_token = 'a', scope = 'a\\nb' }"] = "scope",
  } do
    it("raises an error with " .. code, function()
      local ok, problem = call(code)
      assert.is_false(ok)
      assert.matches("gateway:token", problem, 1, true)
      assert.matches(words, problem, 1, true)
      assert.same({}, bed.stub:requests())
    end)
  end
end)

describe("gateway:login", function()
  local bed, gate

  setup(function()
    bed = gateway_bed.open()
    gate = bed:start {
      gateway = [[challenge = "bearer", realm = "http://127.0.0.1:@PORT@/login", token_user = "token", timeout = 3,
        path = "/image-manager/api/v1/auth/token"]],
      locations = [[
        location = /login { content_by_lua_block { gateway:login() } }
        location = /spoil {
          content_by_lua_block {
            local dict, spoiled = ngx.shared.icptoken, false
            for _, name in ipairs(dict:get_keys(0)) do
              local value = dict:get(name)
              if name:sub(1, 1) == "i" then
                dict:set(name, value:sub(1, -2) .. string.char((value:byte(-1) + 1) % 256))
                spoiled = true
              end
            end
            ngx.print(tostring(spoiled))
          }
        }
      ]],
    }
  end)
  teardown(function() gateway_bed.close(bed) end)
  before_each(function()
    bed.stub:reset()
    load.request(gate.port, { target = "/empty" })
  end)

  local function log_in(text, method, query)
    return load.request(gate.port, { target = "/login" .. (query or ""), method = method,
      headers = { Authorization = text and "Basic " .. ((mime.b64(text)) or "") } })
  end

  local function assert_refused(answer, status, detail)
    assert.equal(status, answer.status, answer.body)
    assert.equal(detail, (select(2, gateway_bed.read_error(answer))))
    local challenge = ('Basic realm="http://127.0.0.1:%d/login"'):format(gate.port)
    assert.equal(status == 401 and challenge or nil, answer.headers["www-authenticate"])
  end

  it("returns an ID token for a user name and a password", function()
    bed.stub:set { id_token_expires_in = 500 }
    local answer = log_in "admin:admin"
    assert.equal(200, answer.status, answer.body)
    assert.equal("application/json", answer.headers["content-type"])
    assert.equal("no-store", answer.headers["cache-control"])
    assert.equal(tostring(#answer.body), answer.headers["content-length"])
    local given = cjson.decode(answer.body)
    assert.equal(given.token, given.access_token)
    assert.is_true(given.expires_in > 400 and given.expires_in <= 500)
    assert.matches("^%d%d%d%d%-%d%d%-%d%dT%d%d:%d%d:%d%dZ$", given.issued_at)
    assert.equal("admin", icptoken.decode(given.token).claims.sub)
    local asked = bed.stub:last()
    assert.same({ "POST", "/idprovider/v1/auth/identitytoken" }, { asked.method, asked.path })
  end)

  it("is where the gateway's challenge sends clients, which then use its ID token", function()
    local refused = load.request(gate.port, { target = "/v2/library/app/manifests/1" })
    assert.equal(401, refused.status)
    local challenge = icptoken.challenge(refused.headers["www-authenticate"])
    local target = assert(challenge.realm:match "^http://[^/]+(/.*)$")
    local answer = log_in("admin:admin", "GET", ("?account=admin&service=%s&scope=%s"):format(challenge.service,
      socket_url.escape(challenge.scope)))
    assert.equal("/login", target)
    local through = load.request(gate.port, { target = "/v2/library/app/manifests/1",
      headers = { Authorization = "Bearer " .. cjson.decode(answer.body).token } })
    assert.equal("repository:library/app:pull", gateway_bed.read_scopes(through))
  end)

  it("keeps the ID token for the same user and password, and nobody else can read it", function()
    local given = cjson.decode(log_in("admin:admin").body)
    for _ = 1, 10 do assert.equal(given.token, cjson.decode(log_in("admin:admin").body).token) end
    assert.equal(1, #bed.stub:requests())
    local dict = load.request(gate.port, { target = "/dict" }).body
    for _, secret in ipairs { given.token, given.token:match "%.([^.]+)%.", "admin:admin", (mime.b64 "admin:admin") } do
      assert.is_nil(dict:find(secret, 1, true))
    end
    assert_refused(log_in "admin:wrong", 401, "unauthorized")
    assert.equal(2, #bed.stub:requests())
  end)

  it("logs in once for many simultaneous requests, in all workers", function()
    bed.stub:plan { path = LOGIN_PATH, delay = { before = 0.3 } }
    local answers = load.run(gate.port, 40, function()
      return { target = "/login", headers = { Authorization = "Basic " .. (mime.b64 "admin:admin") } }
    end)
    assert.same({ [200] = 40 }, load.count(answers))
    assert.equal(1, #bed.stub:requests())
  end)

  it("logs in again if the ID token is about to expire, or was stored by other code", function()
    bed.stub:set { id_token_expires_in = 61 }
    local first = cjson.decode(log_in("admin:admin").body)
    assert.is_true(first.expires_in >= 60)
    gateway_bed.await("another ID token", function()
      return cjson.decode(log_in("admin:admin").body).token ~= first.token
    end)
    bed.stub:set { id_token_expires_in = 30 }
    load.request(gate.port, { target = "/empty" })
    local before = #bed.stub:requests()
    for _ = 1, 3 do
      local given = cjson.decode(log_in("admin:admin").body)
      assert.is_true(given.expires_in >= 60) -- a token service must not return less
    end
    assert.equal(before + 3, #bed.stub:requests())
    bed.stub:set { id_token_expires_in = 500 }
    log_in "admin:admin"
    assert.equal("true", load.request(gate.port, { target = "/spoil" }).body)
    before = #bed.stub:requests()
    assert.equal(200, log_in("admin:admin").status)
    assert.equal(before + 1, #bed.stub:requests())
  end)

  it("keeps an ID token no longer than that says that it is valid", function()
    for left, logins in pairs { [-100] = 3, [30] = 3, [400] = 1 } do
      load.request(gate.port, { target = "/empty" })
      bed.stub:reset()
      local id_token = cases.make_jwt(('{"sub":"admin","iat":1,"exp":%d}'):format(os.time() + left))
      bed.stub:plan { path = LOGIN_PATH, body = ('{"id_token":"%s","expires_in":500}'):format(id_token),
        times = "forever" }
      for _ = 1, 3 do assert.is_true(cjson.decode(log_in("admin:admin").body).expires_in <= math.max(60, left)) end
      assert.equal(logins, #bed.stub:requests())
    end
  end)

  it("logs in again after the endpoint has refused the ID token", function()
    local first = cjson.decode(log_in("admin:admin").body).token
    bed.stub:reset() -- the stub forgets the ID tokens that it issued
    local request = bed:request("/v2/a/manifests/1", "GET", { Authorization = "Bearer " .. first })
    assert.equal(401, load.request(gate.port, request).status)
    local second = cjson.decode(log_in("admin:admin").body).token
    assert.are_not.equal(first, second)
    request.headers.Authorization = "Bearer " .. second
    assert.equal(200, load.request(gate.port, request).status)
  end)

  it("refuses a wrong password, and remembers it", function()
    local function count_logins(text)
      bed.stub:reset()
      local answers = load.run(gate.port, 60, function()
        return { target = "/login", headers = { Authorization = "Basic " .. (mime.b64(text)) } }
      end, 20)
      assert.same({ [401] = 60 }, load.count(answers))
      return #bed.stub:requests()
    end
    assert_refused(log_in "admin:wrong", 401, "unauthorized")
    assert_refused(log_in "nobody:admin", 401, "unauthorized")
    assert.equal(2, #bed.stub:requests())
    assert.equal(0, count_logins "admin:wrong")
    assert.equal(1, count_logins "admin:wrong too")
    assert.equal(200, log_in("admin:admin").status)
  end)

  it("remembers a refusal for error_ttl", function()
    local hasty = bed:start { gateway = "error_ttl = 0.3",
      locations = "location = /login { content_by_lua_block { gateway:login() } }" }
    bed.stub:plan { path = LOGIN_PATH, status = 401 }
    local request = { target = "/login", headers = { Authorization = "Basic " .. (mime.b64 "admin:admin") } }
    assert.equal(401, load.request(hasty.port, request).status)
    gateway_bed.await("a second login", function() return load.request(hasty.port, request).status == 200 end)
    local requests = bed.stub:requests()
    assert.equal(2, #requests)
    assert.is_true(requests[2].time - requests[1].time > 0.2)
    hasty:stop()
  end)

  it("requires Basic", function()
    assert_refused(log_in(nil), 401, "no_credential")
    for _, value in ipairs { bed.credential, "Basic", "Digest a", "", "a" } do
      local answer = load.request(gate.port, { target = "/login", headers = { Authorization = value } })
      assert_refused(answer, 401, "no_credential")
    end
    assert.same({}, bed.stub:requests())
  end)

  for _, text in ipairs { "", ":", "admin", "admin:", ":admin", "a\0:b", "a:b\n", "\255\254" } do
    it(("makes no login for %q"):format(text), function()
      local answer = log_in(text)
      assert.equal(401, answer.status)
      assert.same({}, bed.stub:requests())
      assert.is_nil(gate:log():find("[error]", 1, true))
    end)
  end

  it("accepts only GET", function()
    for _, method in ipairs { "POST", "HEAD", "PUT", "DELETE", "OPTIONS" } do
      local answer = log_in("admin:admin", method)
      assert.equal(405, answer.status)
      assert.equal("GET", answer.headers.allow)
    end
    assert.same({}, bed.stub:requests())
  end)

  it("returns token_user's own ID token", function()
    local id_token = cases.make_jwt(('{"sub":"joe","iat":%d,"exp":%d}'):format(os.time() - 60, os.time() + 600))
    local given = cjson.decode(log_in("token:" .. id_token).body)
    assert.equal(id_token, given.token)
    assert.is_true(given.expires_in > 500 and given.expires_in <= 600)
    given = cjson.decode(log_in("token:" .. cases.make_jwt '{"iat":5,"exp":5}').body)
    assert.is_true(given.expires_in >= 60)
    for _, left in ipairs { -100, 0, 30, 58 } do
      local expiring = cases.make_jwt(('{"sub":"joe","iat":1,"exp":%d}'):format(os.time() + left))
      assert_refused(log_in("token:" .. expiring), 401, "unauthorized")
    end
    assert_refused(log_in "token:a b", 401, "invalid_credential")
    assert.same({}, bed.stub:requests())
  end)

  -- an order of the stub, status and code
  for _, case in ipairs {
    { { status = 500 }, 502, "server_error" }, { { body = "garbage" }, 502, "invalid_response" },
    { { status = 503, headers = { { "Retry-After", "5" } } }, 503, "server_error", "5" },
    { { status = 429 }, 429, "rate_limited" }, { { status = 404 }, 502, "not_found" },
    { { redirect = "https://login.example/" }, 502, "redirect" }, { { ["end"] = "hold", raw = "" }, 504, "timeout" },
  } do
    it(("fails with %d if the identity provider fails: %s"):format(case[2], case[3]), function()
      bed.stub:plan(case[1])
      local answer = log_in "admin:admin"
      assert_refused(answer, case[2], case[3])
      assert.equal(case[4], answer.headers["retry-after"])
    end)
  end

  it("takes a wrong password for one, however the identity provider says so, and not for a failure", function()
    for _, order in ipairs { { status = 401 }, { status = 400, body = '{"error":"invalid_grant"}' },
      { status = 400, body = '{"error":"access_denied"}' } } do
      load.request(gate.port, { target = "/empty" })
      bed.stub:plan(order)
      assert_refused(log_in "admin:wrong", 401, "unauthorized")
    end
    assert.is_nil(gate:log():match "identitytoken fail: [^\n]*status 400")
    assert.equal(1, gateway_probe.read_metric(gate.port, "icptoken_endpoint_up", 'endpoint="login"'))
  end)

  it("is counted, and the log says when the identity provider begins to fail and when it answers again", function()
    local one = bed:start { workers = 1, locations = "location = /login { content_by_lua_block { gateway:login() } }" }
    local function count(result)
      local name = ('\nicptoken_requests_total{[^}]*result="%s"} (%%d+)'):format(result)
      return tonumber(load.request(one.port, { target = "/metrics" }).body:match(name))
    end
    local request = { target = "/login", headers = { Authorization = "Basic " .. (mime.b64 "admin:admin") } }
    bed.stub:plan({ status = 500 }, { status = 500 })
    for _, status in ipairs { 502, 502, 200, 200 } do assert.equal(status, load.request(one.port, request).status) end
    assert.same({ 2, 2 }, { count "login", count "server_error" })
    local lines = {}
    for line in one:log():gmatch "icptoken: [^\n,]*" do lines[#lines + 1] = line end
    local url = ("https://localhost:%d/idprovider/v1/auth/identitytoken"):format(bed.stub.port)
    assert.equal(2, #lines)
    assert.matches("icptoken: requests to " .. url .. " fail: ", lines[1], 1, true)
    assert.matches("icptoken: requests to " .. url .. " succeed again (the last failure was 'server_error')", lines[2],
      1, true)
    one:stop()
  end)

  it("finds the identity provider of an endpoint that is given as a URL", function()
    local other = bed:start { workers = 1,
      gateway = ([[host = NONE, port = NONE, url = "https://localhost:%d/image-manager/api/v1/auth/token?a=b"]])
        :format(bed.stub.port), locations = "location = /login { content_by_lua_block { gateway:login() } }" }
    local answer = load.request(other.port,
      { target = "/login", headers = { Authorization = "Basic YWRtaW46YWRtaW4=" } })
    assert.equal(200, answer.status, answer.body)
    assert.equal("/idprovider/v1/auth/identitytoken", bed.stub:last().target)
    other:stop()
  end)
end)
