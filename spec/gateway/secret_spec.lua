-- Where no credential may be: in requests that the registry receives, whatever their path through nginx; and in logs,
-- the dict, metrics and answers, whatever fails.

local gateway = require "support.gateway"
local gateway_bed = require "support.gateway_bed"
local interpreter = require "support.interpreter"
local load = require "support.load"
local mime = require "mime"
local nginx = require "support.nginx"
local shell = require "support.shell"

local TARGET = "/v2/a/manifests/1"

-- A registry that keeps the headers of the requests that it receives. Under /denied it answers with 401, under /back it
-- has nginx redirect internally.
local RECORDING = [[
  lua_shared_dict heads 4m;
  server {
    listen 127.0.0.1:@PORT@;
    client_max_body_size 0;
    client_body_buffer_size 2m;
    location / {
      content_by_lua_block {
        ngx.shared.heads:rpush("list", ngx.req.raw_header())
        ngx.req.read_body()
        if ngx.var.uri:find("/denied", 1, true) then ngx.status = 401 end
        if ngx.var.uri:find("/back", 1, true) then ngx.header["X-Accel-Redirect"] = "/v2/a/manifests/1" end
        ngx.print "the registry's"
      }
    }
    location = /heads {
      content_by_lua_block {
        local heads = ngx.shared.heads
        for _ = 1, heads:llen "list" do ngx.print(heads:lpop "list", "\n") end
      }
    }
  }
]]

-- The directives of a location in docs/gateway.md.
local PROXIED = [[
  proxy_http_version 1.1;
  proxy_set_header Connection "";
  proxy_set_header Authorization $icptoken_authorization;
  proxy_set_header Cookie "";
  proxy_pass http://registry;
]]
local HOOKED = [[
  set $icptoken_authorization "";
  set $icptoken_key "";
  access_by_lua_block { gateway:authorize() }
  header_filter_by_lua_block { gateway:observe() }
]]

-- Each: what it is, locations or servers, the target.
local DETOURS = {
  { "satisfy any", "location /any/ { satisfy any; allow all; " .. HOOKED .. PROXIED .. " }", "/any/x" },
  { "satisfy any around the hook's own location", [[location /v2/any/ { satisfy any; allow all; ]] .. HOOKED .. PROXIED
    .. " }", "/v2/any/manifests/1" },
  { "a subrequest", [[location = /capture {
      content_by_lua_block { ngx.print(ngx.location.capture("/v2/a/manifests/1").body) }
    }]], "/capture" },
  { "a subrequest that shares variables", [[location = /share {
      set $icptoken_authorization $http_authorization;
      content_by_lua_block {
        ngx.print(ngx.location.capture("/v2/a/manifests/1", { share_all_vars = true }).body)
      }
    }]], "/share" },
  { "a subrequest of a request that was allowed", [[location /v2/outer/ { ]] .. HOOKED .. [[
      content_by_lua_block {
        ngx.print(ngx.location.capture("/v2/a/manifests/1", { copy_all_vars = true, always_forward_body = true }).body)
      }
    }]], "/v2/outer/manifests/1" },
  { "auth_request", [[location = /auth { auth_request /v2/a/manifests/1; return 200; }]], "/auth" },
  { "auth_request that is denied", "location = /auth { auth_request /v2/denied/manifests/1; return 200; }",
    "/auth" },
  { "mirror", [[location = /mirrored { mirror /v2/a/manifests/1; content_by_lua_block { ngx.print "mirrored" } }]],
    "/mirrored" },
  { "error_page to the hook", "location /old/ { error_page 404 = /v2/a/manifests/1; return 404; }", "/old/" },
  { "error_page to a location without the hook", "location /v2/named/ { error_page 500 = @named; " .. [[
      set $icptoken_authorization "";
      set $icptoken_key "";
      access_by_lua_block { error "a fault" }
    }
    location @named { ]] .. PROXIED .. " }", "/v2/named/manifests/1" },
  { "error_page behind the hook", "location /v2/late/ { error_page 500 = @late; " .. [[
      set $icptoken_authorization "";
      set $icptoken_key "";
      access_by_lua_block { gateway:authorize() error "a fault" }
    }
    location @late { ]] .. PROXIED .. " }", "/v2/late/manifests/1" },
  { "an error that nginx takes from the registry", "location /v2/denied/ { proxy_intercept_errors on; error_page 401 = "
    .. TARGET .. "; " .. HOOKED .. PROXIED .. " }", "/v2/denied/manifests/1" },
  { "an internal redirect by the registry", "", "/v2/back/manifests/1" },
  { "rewrite", "location /r/ { rewrite ^/r/(.*)$ /v2/$1 last; }", "/r/a/manifests/1" },
  { "ngx.exec", [[location = /exec { content_by_lua_block { ngx.exec("/v2/a/manifests/1") } }]], "/exec" },
  { "try_files", "location /try/ { try_files /none /v2/a/manifests/1; }", "/try/x" },
}

describe("the client's credential", function()
  local bed, registry, password

  setup(function()
    bed = gateway_bed.open()
    registry = nginx.start { http = RECORDING, workers = 1 }
    password = "correct-horse-battery"
    bed.stub:set { users = { joe = password } }
  end)
  teardown(function()
    gateway_bed.close(bed)
    if registry then registry:stop() end
  end)

  -- The headers that the registry has received since the last call.
  local function read_heads()
    return load.request(registry.port, { target = "/heads" }).body
  end

  local function basic()
    return "Basic " .. (mime.b64("joe:" .. password))
  end

  -- Returns the JWTs that were there.
  local function assert_no_credential(heads)
    for _, secret in ipairs { bed.stub.id_token, bed.stub.id_token:match "[^.]+$", password, basic():sub(7) } do
      assert.is_nil(heads:find(secret, 1, true))
    end
    local jwts = {}
    for value in heads:gmatch "\n[Aa]uthorization: ([^\r\n]*)" do jwts[#jwts + 1] = value:match "^Bearer (eyJ.+)$" end
    -- every header of that name contained one
    assert.equal(#jwts, select(2, heads:lower():gsub("\nauthorization:", "")))
    return jwts
  end

  it("is replaced by a token", function()
    local gate = bed:start { upstream = registry }
    for _, authorization in ipairs { bed.credential, basic() } do
      read_heads()
      local answer = load.request(gate.port, bed:request(TARGET, "GET",
        { Authorization = authorization, Cookie = "id=" .. bed.stub.id_token }))
      assert.equal(200, answer.status)
      assert.equal(1, #assert_no_credential(read_heads()))
    end
    gate:stop()
  end)

  it("does not reach the registry in a second header", function()
    local gate = bed:start { upstream = registry }
    for _, fields in ipairs {
      { Authorization = { bed.credential, basic() } }, { Authorization = { basic(), bed.credential } },
      { Authorization = { "", bed.credential } }, { Authorization = { bed.credential, "" } },
      { Authorization = bed.credential, authorization = basic() },
      { Authorization = bed.credential, ["AUTHORIZATION"] = basic() },
      { Authorization = bed.credential, ["Authorization "] = basic() },
    } do
      read_heads()
      local answer = load.request(gate.port, { target = TARGET, headers = fields })
      -- Debian's nginx rejects two; others pass on the first
      assert.is_true(answer.status == 200 or answer.status == 400 or answer.status == 401, answer.problem)
      assert_no_credential(read_heads())
    end
    assert.is_nil(gate:log():find("runtime error", 1, true))
    gate:stop()
  end)

  for _, case in ipairs(DETOURS) do
    local what, locations, target = case[1], case[2], case[3]

    it("does not reach the registry through " .. what, function()
      local gate = bed:start { workers = 1, upstream = registry, locations = locations }
      for _, authorization in ipairs { bed.credential, basic(), "Bearer " .. password } do
        read_heads()
        for _, method in ipairs { "GET", "POST" } do
          local answer = load.request(gate.port, bed:request(target, method, { Authorization = authorization }))
          assert.is_number(answer.status, answer.problem)
          assert.is_nil(answer.body:find(authorization, 1, true))
        end
        assert_no_credential(read_heads())
      end
      gate:stop()
    end)
  end

  for _, options in ipairs {
    'credential = function() error(ngx.var.http_authorization) end',
    'credential = function() return ngx.var.http_authorization end',
    'credential = function() ngx.sleep(ngx.var.http_authorization) end',
    'scope = function() error(ngx.var.http_authorization) end',
    'scope = function() error({ ngx.var.http_authorization }) end',
    'scope = function() return { ngx.var.http_authorization .. "\\0" } end',
    'scope = function() ngx.exec("/v2/b/manifests/1") end',
  } do
    it("reaches neither the registry nor the log through a fault of " .. options, function()
      local gate = bed:start { workers = 1, upstream = registry, gateway = options }
      read_heads()
      for _, authorization in ipairs { bed.credential, basic() } do
        local answer = load.request(gate.port, bed:request(TARGET, "GET", { Authorization = authorization }))
        assert.equal(500, answer.status)
        assert.is_nil(gate:log():find(authorization:match "%S+$", 1, true))
      end
      assert.equal("", read_heads())
      gate:stop()
    end)
  end

  describe("over HTTP/2", function()
    local gate

    setup(function()
      gate = bed:start { upstream = registry, servers = ([[server {
        listen 127.0.0.1:@PORTTLS@ ssl http2;
        ssl_certificate %s;
        ssl_certificate_key %s;
        large_client_header_buffers 4 32k;
        location /v2/ { client_max_body_size 0; proxy_request_buffering off; %s %s }
      }]]):format(bed.stub.server_cert, bed.stub.server_key, HOOKED, PROXIED) }
    end)
    before_each(read_heads)

    -- Runs curl for these targets, on one connection. Returns "version status" of each.
    local function run_curl(authorization, targets, ...)
      local words = { "exec curl --http2 --no-progress-meter --max-time 60 --cacert", interpreter.quote(bed.stub.ca),
        "-w '%{http_version} %{http_code}\\n'", "-H", interpreter.quote("Authorization: " .. authorization) }
      for _, word in ipairs { ... } do words[#words + 1] = interpreter.quote(word) end
      for _, target in ipairs(targets) do
        local url = ("https://localhost:%d%s"):format(gate.ports.PORTTLS, target)
        words[#words + 1] = "-o /dev/null " .. interpreter.quote(url)
      end
      local output = shell.run(table.concat(words, " ") .. " 2>&1")
      return output
    end

    it("is replaced by a token", function()
      for _, authorization in ipairs { bed.credential, basic() } do
        assert.equal("2 200\n2 200\n2 404\n2 200\n",
          run_curl(authorization, { TARGET, "/v2/", "/v2/A", "/v2/b/tags/list" }))
        assert.equal(3, #assert_no_credential(read_heads()))
      end
    end)

    it("is replaced in concurrent requests", function()
      local targets = {}
      for i = 1, 20 do targets[i] = ("/v2/side%d/manifests/1"):format(i) end
      assert.equal(("2 200\n"):rep(20), run_curl(bed.credential, targets, "--parallel", "--parallel-max", "20"))
      assert.equal(20, #assert_no_credential(read_heads()))
    end)

    it("is refused, and the connection stays in use", function()
      assert.equal("2 401\n2 401\n2 404\n", run_curl("Bearer none", { TARGET, TARGET, "/v2/A" }))
      assert.equal("2 401\n2 401\n", run_curl("Bearer none", { TARGET, TARGET }, "--head"))
      assert.equal("", read_heads())
    end)

    it("is replaced with an upload, and refused with one", function()
      local file = os.tmpname()
      finally(function() os.remove(file) end)
      local handle = assert(io.open(file, "wb"))
      handle:write(("x"):rep(2 ^ 20))
      handle:close()
      local target = "/v2/a/blobs/uploads/"
      assert.equal("2 200\n2 200\n", run_curl(bed.credential, { target, target }, "--data-binary", "@" .. file))
      assert.equal(2, #assert_no_credential(read_heads()))
      assert.equal("2 401\n2 401\n", run_curl("Bearer none", { target, target }, "--data-binary", "@" .. file))
      assert.equal("", read_heads())
    end)
  end)
end)

-- Each: what the endpoint does, where %s is the credential that it received.
local FAILURES = {
  { status = 401 }, { status = 401, body = '{"errors":[{"code":"%s","message":"%s"}]}' }, { status = 403, body = "%s" },
  { status = 429, headers = { { "Retry-After", "%s" } } }, { status = 500, body = "%s" },
  { status = 503, body = '{"message":"%s"}', headers = { { "Retry-After", "1" } } }, { status = 400, body = "for %s" },
  { status = 400, body = '{"error":"%s","error_description":"not %s"}' }, { body = "<html>%s</html>" },
  { body = '{"token":"%s %s"}' }, { body = '{"token":1,"x":"%s"}' }, { token = "%s\n" }, { token = "%s %s" },
  { redirect = "https://login.example/%s" }, { redirect = "https://login.example/?token=%s#%s" },
  { raw = "%s\r\n\r\n" }, { raw = "HTTP/1.1 200 %s\r\n\r\n%s" },
  { raw = "HTTP/1.1 407 No\r\nProxy-Authenticate: Basic realm=%s\r\nContent-Length: 0\r\n\r\n" },
  { expires_in = 60, claims = { iat = 1, exp = 2 } },
}

local function fill_in(value, secret)
  if type(value) == "string" then return (value:gsub("%%s", function() return secret end)) end
  if type(value) ~= "table" then return value end
  local filled = {}
  for name, member in pairs(value) do filled[name] = fill_in(member, secret) end
  return filled
end

describe("no secret is", function()
  local PASSWORD, USER = "correct-horse-battery", "joe-the-user"
  -- After /forget, the next failure is logged again, and the next request reaches the endpoint.
  local LOCATIONS = [[
    location = /login { content_by_lua_block { gateway:login() } }
    location = /forget {
      content_by_lua_block {
        local dict = ngx.shared.icptoken
        for _, name in ipairs(dict:get_keys(0)) do
          if #name == 33 and name:find "^[fstu]" then dict:delete(name) end
        end
      }
    }
  ]]
  local bed, gate, secrets, jwts, answers, serial

  setup(function() bed = gateway_bed.open() end)
  teardown(function() gateway_bed.close(bed) end)

  local function note(answer)
    assert.is_true(answer.status ~= nil and answer.status ~= 200, answer.problem)
    local parts = { answer.body }
    for name, value in pairs(answer.headers) do parts[#parts + 1] = name .. ": " .. value end
    answers[#answers + 1] = table.concat(parts, "\n")
  end

  -- Each request has another key than the one before.
  local function ask(authorization, method, headers)
    serial = serial + 1
    local request = bed:request(("/v2/secret-name%d/%s"):format(serial,
      method == "POST" and "blobs/uploads/" or "manifests/1"), method, headers)
    request.headers.Authorization = authorization
    return load.request(gate.port, request)
  end

  local function fail_everywhere(authorization, secret)
    for i, order in ipairs(FAILURES) do
      bed.stub:plan(fill_in(order, secret))
      note(ask(authorization, ({ "GET", "HEAD", "POST" })[i % 3 + 1]))
      load.request(gate.port, { target = "/forget" })
    end
  end

  local function get_token(authorization)
    local echo = gateway_bed.read_echo(ask(authorization))
    jwts[#jwts + 1] = assert(echo.headers.authorization:match "^Bearer (.+)$")
  end

  -- Gets a token, has the registry refuse it, and gets another.
  local function succeed(authorization)
    get_token(authorization)
    for _, problem in ipairs { "insufficient_scope", "invalid_token" } do
      serial = serial - 1
      note(ask(authorization, "HEAD",
        { ["X-Test-Status"] = "401", ["X-Test-Challenge"] = ('Bearer realm="a",error="%s"'):format(problem) }))
    end
    serial = serial - 1
    get_token(authorization)
  end

  local function refuse_all()
    for _, value in ipairs { "Bearer %s %s", "Basic !%s", "Digest %s", "%s", "Bearer %s,", "bearer \1%s" } do
      for _, secret in ipairs(secrets) do note(ask(fill_in(value, secret))) end
    end
  end

  local function log_in(basic)
    bed.stub:plan(fill_in({ status = 400, body = '{"error":"%s","error_description":"%s"}' }, PASSWORD))
    for _, authorization in ipairs { "Basic " .. basic, bed.credential, "Basic " .. secrets[1] } do
      note(load.request(gate.port, { target = "/login", headers = { Authorization = authorization } }))
    end
  end

  local function start(log_level)
    local gate_options = [[port = %d, token_user = "token", challenge = "bearer", realm = "https://gate.example/login"]]
    return bed:start { log_level = log_level, gateway = gate_options:format(bed.stub.ports.h1),
      locations = LOCATIONS }
  end

  -- Causes everything that can go wrong, and some successes.
  local function run(log_level)
    bed.stub:reset()
    bed.stub:set { users = { [USER] = PASSWORD } }
    gate = start(log_level)
    local basic = (mime.b64(USER .. ":" .. PASSWORD))
    secrets = { bed.stub.id_token, bed.stub.id_token:match "[^.]+$", PASSWORD, basic }
    answers, jwts, serial = {}, {}, 0
    for _, case in ipairs { { bed.credential, bed.stub.id_token }, { "Basic " .. basic, PASSWORD },
      { "Basic " .. basic, basic }, { "Basic " .. (mime.b64("token:" .. bed.stub.id_token)), bed.stub.id_token } } do
      fail_everywhere(case[1], case[2])
      succeed(case[1])
    end
    refuse_all()
    log_in(basic)
  end

  local function assert_clean(text, more)
    for _, list in ipairs { secrets, more or {} } do
      for _, secret in ipairs(list) do
        local at = text:find(secret, 1, true)
        if at then error("a secret: " .. text:sub(math.max(1, at - 200), at + 20), 2) end
      end
    end
  end

  it("in error.log at notice, in the dict, the metrics or an answer", function()
    run "notice"
    finally(function() gate:stop() end)
    local dict = load.request(gate.port, { target = "/dict" }).body
    local metrics = load.request(gate.port, { target = "/metrics" }).body
    local log = gate:log()
    assert.is_true(#jwts == 8 and dict:find(jwts[#jwts], 1, true) ~= nil)
    assert.matches(" fail: ", log, 1, true)
    assert_clean(log, jwts)
    assert_clean(log, { "eyJ" })
    assert_clean(dict)
    assert_clean(metrics, jwts)
    assert_clean(metrics, { USER, "secret-name", "eyJ" })
    assert_clean(table.concat(answers, "\n"), jwts)
    assert_clean(table.concat(answers, "\n"), { USER, "eyJ" })
  end)

  it("is logged by nginx without a warning: start() reports the level of error_log", function()
    for level, is_wordy in pairs { debug = true, info = true, notice = false, warn = false } do
      local one = bed:start { log_level = level, workers = 1 }
      -- nginx refuses this many headers, and logs them with their contents at level info
      load.request(one.port, { raw = "GET /v2/ HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer hush-hush\r\n"
        .. "Authorization: Bearer hush-hush\r\n\r\n" })
      local log = one:log()
      assert.equal(is_wordy, log:find("hush-hush", 1, true) ~= nil, level)
      assert.equal(is_wordy and 1 or 0, (select(2, log:gsub("error_log has the level", ""))), level)
      one:stop()
    end
  end)

  it("is logged by nginx without a warning, also if a server has an error_log of its own", function()
    local conf = gateway.configure { stub = bed.stub, upstream = bed.upstream }
    conf = conf:gsub("listen 127.0.0.1:@PORT@[^;]*;", "%0 error_log @DIR@/error.log info;", 1)
    local one = nginx.start { http = conf, workers = 1, main = "thread_pool icptoken threads=16;" }
    finally(function() one:stop() end)
    for _ = 1, 2 do assert.equal(200, load.request(one.port, bed:request "/v2/a/manifests/1").status) end
    load.request(one.port, { raw = "GET /v2/ HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer hush-hush\r\n"
      .. "Authorization: Bearer hush-hush\r\n\r\n" })
    local log = one:log()
    assert.is_truthy(log:find("hush-hush", 1, true))
    assert.equal(1, (select(2, log:gsub("error_log has the level", ""))))
  end)

  it("in a line of the gateway's, at whatever level", function()
    run "debug"
    finally(function() gate:stop() end)
    local lines = {}
    for line in gate:log():gmatch "[^\n]+" do
      if line:find("icptoken: ", 1, true) then lines[#lines + 1] = line end
    end
    assert.is_true(#lines > 2 * #FAILURES)
    assert_clean(table.concat(lines, "\n"), jwts)
    assert_clean(table.concat(lines, "\n"), { "eyJ" })
  end)
end)
