-- icptoken check: clusters that are broken in one way each. The first FAIL of every row names the cause and what to do,
-- for people and as JSON, and no output contains a secret.

local base64 = require "icptoken.cli.base64"
local cjson = require "cjson"
local command = require "support.command"
local gateway = require "support.gateway"
local pty = require "support.pty"
local registry_server = require "support.registry"
local testkit = require "testkit"

local TOKEN_PATH = "/image-manager/api/v1/auth/token"
local PASSWORD = "pa55w0rd-of-the-proxy"
local COLUMNS = 40

local stub, bed, registry

setup(function() stub, bed = command.begin() end)
teardown(function() command.finish(stub, bed) end)
before_each(function() command.reset(stub, bed) end)

local function encode_json_part(value)
  return (base64.encode(cjson.encode(value)):gsub("[+/=]", { ["+"] = "-", ["/"] = "_", ["="] = "" }))
end

-- A JWT with these claims and without a valid signature.
local function make_jwt(claims)
  return encode_json_part { alg = "RS256", typ = "JWT" } .. "." .. encode_json_part(claims) .. ".c2lnbmF0dXJl"
end

local function now() return os.time() end
local expired_token = make_jwt { sub = "admin", iat = now() - 7200, exp = now() - 3600 }
local odd_token = make_jwt { sub = "admin", iat = now() - 60, exp = now() - 60 }
local strange_token = make_jwt { sub = "admin", iat = now() - 60, exp = now() + 3600 }
local registry_token = make_jwt { iss = "registry-token-issuer", aud = "", exp = now() + 1800, iat = now(),
  access = {} }
local opaque_token = ("0123456789abcdef"):rep(3)

-- Every text that must not be shown, as it is and encoded.
local function list_secrets()
  local secrets = {}
  for _, secret in ipairs { stub.id_token, expired_token, odd_token, strange_token, registry_token, opaque_token,
    PASSWORD } do
    for _, text in ipairs { secret, base64.encode(secret):gsub("=+$", ""), base64.encode("id-token:" .. secret) } do
      secrets[#secrets + 1] = text
    end
  end
  secrets[#secrets + 1] = "eyJ"
  return secrets
end

local function assert_no_secret(text)
  for _, secret in ipairs(list_secrets()) do assert.is_nil(text:find(secret, 1, true), "a secret is shown") end
  assert.is_nil(text:find("%.lua:%d"), text)
end

local function name_registry() return "localhost:" .. stub.port end

-- What a row may say: `port` (a listener of the stub), `registry` (false for none), `flags` (in place of --host, --port
-- and --cacert), `env`, `config` (JSON), `prepare`.
local function list_arguments(row)
  local words = { "check" }
  local registry_name = row.registry
  if registry_name == nil then registry_name = name_registry() end
  if registry_name then words[2] = type(registry_name) == "function" and registry_name() or registry_name end
  local flags = row.flags and row.flags()
    or { "--host", "localhost", "--port", tostring(stub.ports[row.port or "https"]), "--cacert", stub.ca }
  for _, word in ipairs(flags) do words[#words + 1] = word end
  return words
end

local function make_environment(row)
  local env = { ID_TOKEN = stub.id_token }
  for name, value in pairs(row.env or {}) do env[name] = type(value) == "function" and value() or value end
  return env
end

-- Runs the row for people and as JSON, at the same time.
local function run_both(row)
  local words, env = list_arguments(row), make_environment(row)
  words.env = env
  local text = bed:start(words)
  local json_words = { (table.unpack or unpack)(words) } -- luacheck: ignore 143
  json_words[#json_words + 1], json_words.env = "--json", env
  local json = bed:start(json_words)
  local status, out, err = bed:finish(text)
  local json_status, json_out, json_err = bed:finish(json)
  assert.same({ "", "" }, { err, json_err })
  assert.equal(status, json_status)
  for _, shown in ipairs { out, json_out } do assert_no_secret(shown) end
  return status, out, cjson.decode(json_out)
end

local function prepare(row)
  if row.config then bed:configure(type(row.config) == "function" and row.config() or row.config) end
  if row.prepare then row.prepare() end
end

local function assert_broken(row)
  prepare(row)
  local status, out, report = run_both(row)
  assert.equal(1, status, out)
  assert.is_false(report.ok)
  assert.equal(row.id .. " " .. row.cause, report.first.id .. " " .. report.first.cause, out)
  assert.matches(row.word, report.first.message .. "\n" .. (report.first.advice or ""), 1, true)
  local first
  for _, check in ipairs(report.checks) do
    if check.state == "fail" then first = first or check end
  end
  assert.same(report.first, first)
  local shown = out:match "FAIL  [^\n]*\n[^\n]*"
  assert.matches(row.word, shown, 1, true)
  assert.matches(first.message:sub(1, 28), shown, 1, true)
end

local function challenge(value, status)
  return function()
    stub:plan { path = "/v2/", status = status or 401, headers = value and { { "WWW-Authenticate", value } },
      body = "{}",
      times = "forever" }
  end
end

local function at_endpoint(order)
  return function()
    local copy = { path = TOKEN_PATH, times = "forever" }
    for name, value in pairs(order) do copy[name] = value end
    stub:plan(copy)
  end
end

local function set(settings)
  return function() stub:set(settings) end
end

local function write_docker(content)
  return function()
    content = content:gsub("REGISTRY", (name_registry():gsub("%%", "%%%%")))
    bed:write(".docker/config.json", content)
  end
end

local function known(more)
  return function()
    return command.configuration(stub, (',"registries":{"%s":{"cluster":"prod"%s}}'):format(name_registry(), more
      or ""))
  end
end

local function install_helper()
  return bed.home .. "/bin:" .. os.getenv "PATH"
end

local function with_helper(content)
  local write = write_docker(content)
  return function()
    bed:write("bin/docker-credential-icptoken", "#!/bin/sh\n", "755")
    write()
  end
end

local IN_GATEWAY = ',"gateway_user":"id-token"'
local function no_flags() return {} end

-- In the order of the checks. quick: the row is part of make test; the others are of make test-deep.
local ROWS = {
  -- the configuration
  { "configuration not JSON", id = "configuration", cause = "configuration", word = "not JSON", config = "{",
    quick = true },
  { "unknown field", id = "configuration", cause = "configuration", word = "did you mean 'clusters'",
    config = '{"cluster":{}}' },
  { "no cluster", id = "configuration", cause = "configuration", word = "--host mycluster.icp", flags = no_flags },
  { "two clusters", id = "configuration", cause = "usage", word = "--cluster (a, b)", flags = no_flags,
    config = '{"clusters":{"a":{"host":"a"},"b":{"host":"b"}}}' },
  { "an invalid option", id = "configuration", cause = "configuration", word = "timeout",
    env = { ICPTOKEN_TIMEOUT = "-1" } },
  { "no CA file", id = "configuration", cause = "cacert", word = "No such file",
    flags = function() return { "--host", "localhost", "--cacert", bed:path "missing.crt" } end },
  { "CA file without a certificate", id = "configuration", cause = "cacert", word = "BEGIN CERTIFICATE",
    flags = function() return { "--host", "localhost", "--cacert", bed:write("ca/empty.crt", "nothing") } end },
  { "CA file in DER", id = "configuration", cause = "cacert", word = "openssl x509 -inform DER",
    flags = function()
      bed:write("ca/ca.der", "")
      os.execute(("openssl x509 -in '%s' -outform DER -out '%s'"):format(stub.ca, bed:path "ca/ca.der"))
      return { "--host", "localhost", "--cacert", bed:path "ca/ca.der" }
    end },
  -- reaching the endpoint
  { "no DNS", id = "lookup", cause = "not_found", word = "/etc/hosts", quick = true,
    flags = function() return { "--host", "nosuch.invalid" } end },
  { "no such proxy", id = "lookup", cause = "not_found", word = "$https_proxy",
    env = { https_proxy = "http://joe:" .. PASSWORD .. "@nosuch.invalid:3128" } },
  { "refused port", id = "connection", cause = "refused", word = "8443", port = "refuse" },
  { "refused proxy", id = "connection", cause = "refused", word = "$https_proxy",
    env = { https_proxy = function() return ("http://joe:%s@localhost:%d"):format(PASSWORD, stub.ports.refuse) end } },
  { "proxy without access", id = "tls", cause = "proxy", word = "proxy", prepare = set { proxy_auth = "joe:"
    .. PASSWORD },
    env = { https_proxy = function() return ("http://localhost:%d"):format(stub.ports.proxy) end } },
  -- TLS
  { "system's CAs", id = "tls", cause = "unknown_ca", word = "--cacert",
    flags = function() return { "--host", "localhost", "--port", tostring(stub.port) } end },
  { "wrong CA", id = "tls", cause = "unknown_ca", word = "icp-router.crt", quick = true,
    flags = function() return { "--host", "localhost", "--port", tostring(stub.port), "--cacert", stub.other_ca } end },
  { "wrong CA, and the right one in the configuration", id = "tls", cause = "unknown_ca", word = "ca.crt verifies it",
    config = function() return ('{"clusters":{"other":{"host":"other.icp","cacert":"%s"}}}'):format(stub.ca) end,
    flags = function() return { "--host", "localhost", "--port", tostring(stub.port), "--cacert", stub.other_ca } end },
  { "certificate of an unknown CA", id = "tls", cause = "unknown_ca", word = "other stub CA", port = "unknown_ca" },
  { "expired certificate", id = "tls", cause = "expired", word = "renewed", port = "expired" },
  { "certificate that is not yet valid", id = "tls", cause = "not_yet_valid", word = "not valid until",
    port = "not_yet_valid" },
  { "wrong name", id = "tls", cause = "wrong_name", word = "other.example", port = "wrong_host" },
  { "self-signed", id = "tls", cause = "self_signed", word = "self-signed", port = "self_signed" },
  { "old TLS", id = "tls", cause = "old_tls", word = "TLS 1.2", port = "tls11" },
  { "client certificate", id = "tls", cause = "client_certificate", word = "cert and key", port = "client_cert" },
  { "HTTP on the HTTPS port", id = "tls", cause = "plain_http", word = "without TLS", port = "http", quick = true },
  { "SSH on the HTTPS port", id = "tls", cause = "not_tls", word = "SSH-2.0", port = "banner" },
  { "silence on the HTTPS port", id = "tls", cause = "timeout", word = "does not answer", port = "hang",
    flags = function()
    return { "--host", "localhost", "--port", tostring(stub.ports.hang), "--cacert", stub.ca, "--timeout", "2" } end },
  { "wrong pin", id = "tls", cause = "pin", word = "pin",
    env = { ICPTOKEN_PINNED_PUBLIC_KEY = "sha256//" .. ("A"):rep(43) .. "=" } },
  -- clocks
  { "clock 10 minutes behind", id = "clock", cause = "clock", word = "behind",
    prepare = set { clock_offset = 630 } },
  { "clock 10 minutes ahead", id = "clock", cause = "clock", word = "ahead", prepare = set { clock_offset = -630 } },
  { "clock behind the certificate", id = "clock", cause = "clock", word = "not yet valid", port = "not_yet_valid",
    prepare = set { clock_offset = 2 * 86400 }, quick = true },
  -- the server that answers
  { "captive portal's redirect", id = "endpoint", cause = "redirect", word = "captive portal",
    prepare = at_endpoint { redirect = "https://portal.example/login" } },
  { "HTML answer", id = "endpoint", cause = "web_page", word = "web page",
    prepare = at_endpoint { status = 200, body = "<html>hello</html>", headers = { { "Content-Type",
      "text/html" } } } },
  { "no token endpoint", id = "endpoint", cause = "not_found", word = "master",
    prepare = at_endpoint { status = 404, body = "" } },
  { "service unavailable", id = "endpoint", cause = "server_error", word = "Try again later",
    prepare = at_endpoint { status = 503, body = "{}" } },
  { "too many requests", id = "endpoint", cause = "rate_limited", word = "Try again later",
    prepare = at_endpoint { status = 429, body = "{}" } },
  { "an answer that is something else", id = "endpoint", cause = "invalid_response", word = "Check host",
    prepare = at_endpoint { status = 200, body = "{}" } },
  { "an answer that is cut off", id = "endpoint", cause = "network", word = "cut", prepare = at_endpoint { cut = 60 } },
  -- the credential
  { "nobody logged in", id = "credential", cause = "none", word = "icptoken login --host localhost",
    env = { ID_TOKEN = "" } },
  { "session expired", id = "credential", cause = "expired", word = "session of admin", env = { ID_TOKEN = "" },
    prepare = function()
      bed:write((".local/state/icptoken/localhost_%d.json"):format(stub.port),
        ('{"endpoint":"localhost:%d","username":"admin","id_token":"%s","expires_at":1}'):format(stub.port,
          expired_token),
        "600")
      os.execute(("chmod 700 '%s'"):format(bed:path ".local/state/icptoken"))
    end },
  { "session that others can read", id = "credential", cause = "file", word = "mode", env = { ID_TOKEN = "" },
    prepare = function()
      bed:write((".local/state/icptoken/localhost_%d.json"):format(stub.port), "{}", "644")
      os.execute(("chmod 700 '%s'"):format(bed:path ".local/state/icptoken"))
    end },
  { "expired ID token", id = "credential", cause = "expired", word = "1 h ago", env = { ID_TOKEN = expired_token },
    quick = true },
  { "exp == iat, and refused", id = "credential", cause = "refused", word = "does not say when", quick = true,
    env = { ID_TOKEN = odd_token } },
  { "refused ID token", id = "credential", cause = "refused", word = "401", env = { ID_TOKEN = strange_token } },
  { "access token", id = "credential", cause = "refused", word = "access token", env = { ID_TOKEN = opaque_token } },
  { "registry token as ID token", id = "credential", cause = "registry_token", word = "ID token of a login",
    env = { ID_TOKEN = registry_token } },
  { "two tokens in one", id = "credential", cause = "not_a_token", word = "characters",
    env = { ID_TOKEN = strange_token .. "\n" .. strange_token } },
  { "no file with an ID token", id = "credential", cause = "unreadable", word = "No such file",
    env = { ICPTOKEN_ID_TOKEN_FILE = "/nonexistent/id_token" } },
  -- the token
  { "wrong service", id = "token", cause = "audience", word = "'elsewhere'", quick = true,
    prepare = at_endpoint { claims = { aud = "elsewhere" } } },
  { "token for nobody", id = "token", cause = "audience", word = "nobody",
    prepare = at_endpoint { claims = { aud = "" } } },
  { "empty access", id = "token", cause = "access", word = "namespace",
    registry = function() return name_registry() .. "/default/app" end,
    prepare = set { denied = { "default/app" }, denial = "less" } },
  { "no access", id = "token", cause = "forbidden", word = "access to it",
    registry = function() return name_registry() .. "/default/app:1.0" end,
      prepare = set { denied = { "default/app" } } },
  { "expired token", id = "token", cause = "expired", word = "clock", prepare = at_endpoint { claims = { iat_in = -900,
    exp_in = -90 } } },
  { "token of the future", id = "token", cause = "not_yet_valid", word = "clock",
    prepare = at_endpoint { claims = { nbf_in = 600 } } },
  { "token that is no JWT", id = "token", cause = "not_a_jwt", word = "no JWT",
    prepare = at_endpoint { token = "abc" } },
  -- the registry
  { "registry's name", id = "registry", cause = "not_found", word = "/etc/hosts", registry = "nosuch.invalid" },
  { "registry's port", id = "registry", cause = "refused", word = "8500",
    registry = function() return "localhost:" .. stub.ports.refuse end },
  { "registry's CA", id = "registry", cause = "unknown_ca", word = "x509",
    registry = function() return "localhost:" .. stub.ports.unknown_ca end },
  { "registry's certificate", id = "registry", cause = "expired", word = "renewed",
    registry = function() return "localhost:" .. stub.ports.expired end },
  { "private IP in the realm", id = "registry", cause = "private_realm", word = "crane",
    prepare = set { registry_realm = "https://10.1.2.3:8443" .. TOKEN_PATH } },
  { "realm of another cluster", id = "registry", cause = "realm", word = "other.icp",
    prepare = set { registry_realm = "https://other.icp:8443" .. TOKEN_PATH } },
  { "realm that is no URL", id = "registry", cause = "realm", word = "auth.token.realm",
    prepare = set { registry_realm = "nowhere" } },
  { "another service than ours", id = "registry", cause = "service", word = '"service": "registry-service"',
    quick = true,
    prepare = set { registry_service = "registry-service" } },
  { "no registry", id = "registry", cause = "not_a_registry", word = "not a registry",
    prepare = function() stub:plan { path = "/v2/", status = 404, body = "", times = "forever" } end },
  { "401 without a challenge", id = "registry", cause = "no_challenge", word = "401", prepare = challenge(nil) },
  { "a gateway that is not configured as one", id = "registry", cause = "basic", word = "--gateway-user",
    prepare = challenge 'Basic realm="registry"' },
  { "registry out of order", id = "registry", cause = "status", word = "500", prepare = challenge(nil, 500) },
  { "realm that echoes the token", id = "registry", cause = "realm", word = "this cluster",
    prepare = function()
      stub:set { registry_realm = ("https://other.icp/%s/%s"):format(stub.id_token, base64.encode(stub.id_token)) }
    end },
  -- the token at the registry
  { "key that the registry does not know", id = "access", cause = "refused", word = "rootcertbundle", quick = true,
    registry = function() return registry.address end,
    prepare = function()
      registry = registry_server.start { realm = ("https://localhost:%d%s"):format(stub.port, TOKEN_PATH),
        service = "token-service", certificate = stub.server_cert }
    end },
  -- docker and podman
  { "stale auths entry", id = "docker", cause = "stale_entry", word = "icptoken configure",
    config = known(IN_GATEWAY), env = { PATH = install_helper }, flags = no_flags, registry = false,
    prepare = with_helper(('{"credHelpers":{"REGISTRY":"icptoken"},"auths":{"https://REGISTRY/v1/":{"auth":"%s"}}}')
      :format(base64.encode("admin:" .. PASSWORD))) },
  { "expired registrytoken", id = "docker", cause = "expired_entry", word = "--remove", quick = true,
    prepare = write_docker(('{"auths":{"REGISTRY":{"registrytoken":"%s"}}}'):format(expired_token)) },
  { "expired ID token as a password", id = "docker", cause = "expired_entry", word = "icptoken configure",
    prepare = write_docker(('{"auths":{"REGISTRY":{"auth":"%s"}}}'):format(base64.encode("id-token:"
      .. expired_token))) },
  { "helper not in $PATH", id = "docker", cause = "helper_missing", word = "$PATH",
    prepare = write_docker '{"credHelpers":{"REGISTRY":"icptoken"}}' },
  { "helper without a configuration", id = "docker", cause = "helper_unknown", word = "icptoken configure",
    env = { PATH = install_helper }, prepare = with_helper '{"credHelpers":{"REGISTRY":"icptoken"}}' },
  { "docker's file not JSON", id = "docker", cause = "not_json", word = "not JSON", prepare = write_docker "{,}" },
  { "podman's file not JSON", id = "docker", cause = "not_json", word = "auth.json",
    prepare = function() bed:write(".config/containers/auth.json", "[]") end },
  -- the gateway
  { "the registry's challenge through the gateway", id = "gateway", cause = "challenge", word = "gateway:observe()",
    config = known(IN_GATEWAY), quick = true,
      prepare = challenge(('Bearer realm="https://other.icp:8443%s",service="s"')
      :format(TOKEN_PATH)) },
  { "a gateway for another user", id = "gateway", cause = "refused", word = "token_user", config = known(IN_GATEWAY),
    prepare = challenge 'Basic realm="registry"', quick = true },
  { "an open gateway", id = "gateway", cause = "open", word = "gateway:authorize()", config = known(IN_GATEWAY),
    prepare = challenge(nil, 200) },
  { "a gateway that was not started", id = "gateway", cause = "not_started", word = "gateway:start()",
    config = known(IN_GATEWAY), prepare = challenge(nil, 503) },
  { "a gateway that is not there", id = "gateway", cause = "status", word = "502", config = known(IN_GATEWAY),
    prepare = challenge(nil, 502) },
  { "a gateway that wants nothing known", id = "gateway", cause = "no_challenge", word = "gateway",
    config = known(IN_GATEWAY), prepare = challenge "Digest realm=x" },
}

describe("icptoken check, on a broken cluster:", function()
  after_each(function()
    if registry then registry.stop() end
    registry = nil
  end)

  for _, row in ipairs(ROWS) do
    it(row[1] .. (row.quick and "" or " #deep"), function() assert_broken(row) end)
  end

  it("there are at least 40 of them, each with its own name", function()
    local seen, count = {}, 0
    for _, row in ipairs(ROWS) do
      assert.is_nil(seen[row[1]])
      seen[row[1]], count = true, count + 1
    end
    assert.is_true(count >= 40)
  end)
end)

describe("icptoken check, on a cluster that works,", function()
  local function assert_works(row, warnings)
    prepare(row)
    local status, out, report = run_both(row)
    assert.equal(0, status, out)
    assert.is_true(report.ok)
    local causes = {}
    for _, check in ipairs(report.checks) do
      if check.cause then causes[#causes + 1] = check.id .. " " .. check.cause end
    end
    assert.same(warnings, causes)
    assert.same({}, report.not_checked)
    return out, report
  end

  it("says so, and what could be better", function()
    local out = assert_works({ config = known(), flags = no_flags, registry = false, env = { PATH = install_helper },
      prepare = with_helper '{"credHelpers":{"REGISTRY":"icptoken"}}' }, { "registry unknown_ca" })
    assert.matches("It works, with 1 warning.", out, 1, true)
  end)

  it("shows no secret, also with -v", function()
    local words = list_arguments { env = {} }
    words[#words + 1], words.env = "-v", make_environment {}
    local status, out, err = bed:run(words)
    assert.equal(0, status, out)
    assert.matches("token endpoint: a token", err, 1, true)
    assert_no_secret(out .. err)
  end)

  it("accepts an ID token with exp == iat if the endpoint does", function()
    stub:set { id_tokens = { odd_token } }
    assert_works({ env = { ID_TOKEN = odd_token } },
      { "credential no_expiry", "registry unknown_ca", "docker not_configured" })
  end)

  it("warns of a certificate that is not verified", function()
    local out = assert_works({ port = "unknown_ca", flags = function()
      return { "--host", "localhost", "--port", tostring(stub.ports.unknown_ca), "--insecure" }
    end, prepare = function()
      stub:set { registry_realm = ("https://localhost:%d%s"):format(stub.ports.unknown_ca, TOKEN_PATH) }
    end }, { "tls insecure", "docker not_configured" })
    assert.matches("other stub CA", out, 1, true)
  end)

  it("works without the program openssl, and says what it could not check", function()
    local runtime = bed:words "icptoken"[1]
    os.execute(("mkdir -p '%s' && ln -s \"$(command -v '%s')\" '%s'"):format(bed:path "only", runtime,
      bed:path("only/" .. runtime:match "[^/]*$")))
    local out = assert_works({ env = { PATH = function() return bed:path "only" end } },
      { "clock unknown", "registry no_openssl", "docker not_configured" })
    assert.matches("openssl is not installed", out, 1, true)
  end)

  it("with a real docker-registry, and a repository in it", function()
    local real = registry_server.start { realm = ("https://localhost:%d%s"):format(stub.port, TOKEN_PATH),
      service = "token-service", certificate = stub.token_signing_cert }
    finally(real.stop)
    local out = assert_works({ registry = real.address .. "/default/app:1.0" },
      { "registry realm_domain", "docker not_configured" })
    assert.matches("takes the token, for default/app", out, 1, true)
  end)

  it("with a real gateway, whose user must be that of the configuration", function()
    local upstream = gateway.start_upstream()
    finally(function() upstream:stop() end)
    local real = gateway.start { stub = stub, upstream = upstream,
      gateway = { challenge = "basic", token_user = "id-token" } }
    finally(function()
      real:stop()
      upstream:stop()
    end)
    local function configure(user)
      return command.configuration(stub, (',"registries":{"127.0.0.1:%d":{"cluster":"prod","gateway_user":"%s"}}')
        :format(real.port, user))
    end
    local row = { registry = false, flags = no_flags, config = configure "id-token" }
    assert.matches("it takes the ID token", assert_works(row, { "docker not_configured" }), 1, true)
    row.config, row.id, row.cause, row.word = configure "other", "gateway", "refused", "token_user"
    assert_broken(row)
  end)
end)

describe("icptoken check, at a terminal,", function()
  local function show(columns, env)
    local terminal = pty.open()
    finally(function() terminal:close() end)
    local all = { TERM = "xterm", COLUMNS = tostring(columns) }
    for name, value in pairs(env or {}) do all[name] = value end
    local words = bed:words("icptoken", "check", name_registry(), "--host", "localhost", "--port",
      tostring(stub.ports.wrong_host), "--cacert", stub.ca)
    words.env = bed:environment(all)
    local pid = terminal:spawn(words)
    local shown = terminal:await "Not checked"
    assert.same({ "exited", 1 }, { testkit.waitpid(pid, 60) })
    return (shown:gsub("\r", ""))
  end

  for _, columns in ipairs { 80, COLUMNS } do
    it(("has no line of more than %d columns, and colours"):format(columns), function()
      local shown = show(columns)
      assert.matches("\27[31mFAIL\27[0m", shown, 1, true)
      for line in shown:gsub("\27%[%d+m", ""):gmatch "[^\n]+" do
        -- texts to be copied are not broken
        assert.is_true(#line <= columns or not line:match "^%s*(.*)$":find " ", line)
      end
    end)
  end

  it("has no colours with NO_COLOR, and with TERM=dumb", function()
    assert.is_nil(show(80, { NO_COLOR = "1" }):find("\27", 1, true))
    assert.is_nil(show(80, { TERM = "dumb" }):find("\27", 1, true))
  end)
end)

describe("icptoken check decides", function()
  it("which addresses are private", function()
    local is_private = require "icptoken.command.check.registry".is_private
    for _, host in ipairs { "10.0.0.1", "127.0.0.1", "172.16.0.1", "172.31.255.1", "192.168.1.1", "169.254.1.1",
      "[::1]",
      "[fd00::1]", "[fe80::1]" } do assert.is_true(is_private(host), host) end
    for _, host in ipairs { "9.0.0.1", "172.15.0.1", "172.32.0.1", "192.169.0.1", "mycluster.icp", "10.example",
      "[2001:db8::1]" } do assert.is_false(is_private(host), host) end
  end)

  it("which addresses /etc/hosts has for a name", function()
    local find = require "icptoken.command.check.probe".find_in_hosts
    local text = "127.0.0.1 localhost\n10.0.0.5\tmaster MyCluster.icp # cluster\n# 10.0.0.6 mycluster.icp\n"
      .. "::1 mycluster.icp"
    assert.same({ "10.0.0.5", "::1" }, find(text, "mycluster.icp"))
    assert.same({}, find(text, "cluster"))
  end)

  it("which addresses that fail deserve a warning", function()
    local judge = require "icptoken.command.check.reach".judge_connection
    assert.equal("ok", judge("10.0.0.2", { { address = "::1", reason = "refused" } }, 8443).state)
    assert.equal("warn", judge("10.0.0.2", { { address = "10.0.0.1", reason = "timeout" } }, 8443).state)
    assert.equal("fail", judge(nil, { { address = "10.0.0.1", reason = "timeout" } }, 8443).state)
  end)

  it("which proxy a request uses", function()
    local find = require "icptoken.command.check.proxies".find
    local endpoint = { scheme = "https", host = "master.mycluster.icp", port = 8443 }
    local function where(options)
      local proxy = find(endpoint, options)
      return proxy and proxy.host .. ":" .. proxy.port
    end
    assert.equal("proxy:3128", where { proxy = "http://joe:secret@proxy:3128/" })
    assert.equal("proxy:1080", where { proxy = "proxy" })
    assert.equal("::1:3128", where { proxy = "http://[::1]:3128" })
    assert.is_nil(where { proxy = "" })
    for _, list in ipairs { "*", "mycluster.icp", ".mycluster.icp", "a, master.mycluster.icp" } do
      assert.is_nil(where { proxy = "proxy", no_proxy = list })
    end
    assert.equal("proxy:1080", where { proxy = "proxy", no_proxy = "cluster.icp,other" })
  end)

  it("how an HTTP answer is read", function()
    local http = require "icptoken.command.check.http"
    local answer = http.parse("HTTP/1.1 401 Unauthorized\r\nDate: Sun, 06 Nov 1994 08:49:37 GMT\r\nA: b\r\na:c \r\n\r\n"
      .. "x: y\r\n")
    assert.same({ 401, { "b", "c" }, 784111777 }, { answer.status, answer.headers.a, http.read_date(answer) })
    assert.is_nil(answer.headers.x)
    assert.is_nil(http.parse "SSH-2.0-OpenSSH_9\r\n")
  end)

  it("where lines break", function()
    local wrap = require "icptoken.command.check.report".wrap
    assert.same({ "aa bb", "cc" }, wrap("aa bb cc", 5))
    assert.same({ "a", "bbbbbbb", "c" }, wrap("a bbbbbbb c", 5))
  end)
end)
