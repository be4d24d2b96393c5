-- Which access a request gets: exactly what its endpoint needs, judged by the bytes that the registry receives.

local gateway_bed = require "support.gateway_bed"
local icptoken = require "icptoken"
local load = require "support.load"
local registry_server = require "support.registry"

local DIGEST = "sha256:" .. ("0123456789abcdef"):rep(4)
local UPLOAD = "0f9d6e9a-5d53-4c1e-8a3c-0c9f3d2a7e11"
local METHODS = "GET, HEAD, POST, PUT, PATCH, DELETE"

-- A registry lists scopes, and the actions of each, in any order.
local function sort_scopes(scopes)
  local list = {}
  for name, actions in scopes:gmatch "(%S+):(%S+)" do
    local sorted = {}
    for action in actions:gmatch "[^,]+" do sorted[#sorted + 1] = action end
    table.sort(sorted)
    list[#list + 1] = name .. ":" .. table.concat(sorted, ",")
  end
  table.sort(list)
  return table.concat(list, " ")
end

describe("a request's access", function()
  local bed, gate, registry

  setup(function()
    bed = gateway_bed.open()
    gate = bed:start()
    registry = registry_server.start { realm = "https://icp/token", service = "token-service",
      certificate = bed.stub.token_signing_cert }
  end)
  teardown(function()
    gateway_bed.close(bed)
    if registry then registry.stop() end
  end)

  local function ask(target, method, headers)
    return load.request(gate.port, bed:request(target, method, headers))
  end

  -- An answer to HEAD has no echo: it must not need another token than GET.
  local function ask_scopes(target, method)
    local scopes = gateway_bed.read_scopes(ask(target, method == "HEAD" and "GET" or method))
    if method == "HEAD" then
      bed.stub:reset()
      assert.equal(200, ask(target, method).status)
      assert.same({}, bed.stub:requests())
    end
    return scopes
  end

  -- The scopes that a real registry requires for it, from its challenge.
  local function ask_registry(target, method)
    local port = tonumber(registry.address:match "%d+$")
    local answer = load.request(port, { target = target, method = method })
    assert.equal(401, answer.status, target)
    return icptoken.challenge(answer.headers["www-authenticate"]).scope or ""
  end

  -- method, target, scopes
  local served = {
    { "GET", "/v2/", "" },
    { "HEAD", "/v2/", "" },
    { "GET", "/v2/?", "" },
    { "GET", "/v2/?x=%2F..//", "" },
    { "GET", "/v2/_catalog", "registry:catalog:*" },
    { "GET", "/v2/_catalog?n=2&last=library%2Fapp", "registry:catalog:*" },
    { "GET", "/v2/library/app/manifests/latest", "repository:library/app:pull" },
    { "HEAD", "/v2/library/app/manifests/" .. DIGEST, "repository:library/app:pull" },
    { "PUT", "/v2/library/app/manifests/v1.0_rc-1", "repository:library/app:pull,push" },
    { "GET", "/v2/library/app/blobs/" .. DIGEST, "repository:library/app:pull" },
    { "HEAD", "/v2/library/app/blobs/" .. DIGEST, "repository:library/app:pull" },
    { "GET", "/v2/library/app/tags/list", "repository:library/app:pull" },
    { "GET", "/v2/library/app/tags/list?n=10&last=a%2Fb", "repository:library/app:pull" },
    { "POST", "/v2/library/app/blobs/uploads/", "repository:library/app:pull,push" },
    { "POST", "/v2/library/app/blobs/uploads/?digest=sha256%3Aabc", "repository:library/app:pull,push" },
    { "GET", "/v2/library/app/blobs/uploads/" .. UPLOAD, "repository:library/app:pull" },
    { "PATCH", "/v2/library/app/blobs/uploads/" .. UPLOAD .. "?_state=a%3D%3D", "repository:library/app:pull,push" },
    { "PUT", "/v2/library/app/blobs/uploads/" .. UPLOAD .. "?_state=a&digest=sha256:b",
      "repository:library/app:pull,push" },
    { "DELETE", "/v2/library/app/manifests/" .. DIGEST, "repository:library/app:delete,*" },
    { "DELETE", "/v2/library/app/blobs/" .. DIGEST, "repository:library/app:delete,*" },
    { "DELETE", "/v2/library/app/blobs/uploads/" .. UPLOAD, "repository:library/app:delete,*" },
    -- names
    { "GET", "/v2/a/manifests/1", "repository:a:pull" },
    { "GET", "/v2/a/b/c/d/e/f/manifests/1", "repository:a/b/c/d/e/f:pull" },
    { "GET", "/v2/a.b_c__d-e---f/0/manifests/1", "repository:a.b_c__d-e---f/0:pull" },
    { "GET", "/v2/manifests/manifests/manifests", "repository:manifests:pull" },
    { "GET", "/v2/a/manifests/manifests/1", "repository:a/manifests:pull" },
    { "GET", "/v2/a/blobs/manifests/1", "repository:a/blobs:pull" },
    { "GET", "/v2/a/manifests/blobs/" .. DIGEST, "repository:a/manifests:pull" },
    { "GET", "/v2/a/tags/list/tags/list", "repository:a/tags/list:pull" },
    { "GET", "/v2/a/blobs/uploads/blobs/uploads/" .. UPLOAD, "repository:a/blobs/uploads:pull" },
    { "GET", "/v2/" .. ("a"):rep(255) .. "/manifests/1", "repository:" .. ("a"):rep(255) .. ":pull" },
    -- a colon may be written %3A
    { "GET", "/v2/library/app/manifests/" .. DIGEST:gsub(":", "%%3A"), "repository:library/app:pull" },
    { "HEAD", "/v2/library/app/blobs/" .. DIGEST:gsub(":", "%%3a"), "repository:library/app:pull" },
    -- mounts
    { "POST", "/v2/a/blobs/uploads/?mount=" .. DIGEST .. "&from=library/app",
      "repository:a:pull,push repository:library/app:pull" },
    { "POST", "/v2/a/blobs/uploads/?from=library%2Fapp&mount=sha256%3Aabc",
      "repository:a:pull,push repository:library/app:pull" },
    { "POST", "/v2/a/blobs/uploads/?mount=x&%66rom=library/app", "repository:a:pull,push repository:library/app:pull" },
    { "POST", "/v2/a/blobs/uploads/?from=b&from=c", "repository:a:pull,push repository:b:pull" },
    { "POST", "/v2/a/blobs/uploads/?from=b&from=../../c", "repository:a:pull,push repository:b:pull" },
    { "POST", "/v2/a/blobs/uploads/?from=", "repository:a:pull,push" },
    { "POST", "/v2/a/blobs/uploads/?from", "repository:a:pull,push" },
    { "POST", "/v2/a/blobs/uploads/?from=&from=b", "repository:a:pull,push" },
    { "POST", "/v2/a/blobs/uploads/?xfrom=b&fromx=c&FROM=d&digest=from=e", "repository:a:pull,push" },
  }
  for _, case in ipairs(served) do
    local method, target, scopes = case[1], case[2], case[3]
    it(("for %s %.60s is %.80s"):format(method, target, scopes == "" and "none" or scopes), function()
      assert.equal(scopes, ask_scopes(target, method))
      assert.equal(sort_scopes((scopes:gsub(":delete,%*", ":delete"))), sort_scopes(ask_registry(target, method)))
    end)
  end

  -- scopes that no current registry names in its challenge
  for _, case in ipairs {
    { "GET", "/v2/library/app/referrers/" .. DIGEST .. "?artifactType=a%2Fb", "repository:library/app:pull" },
    { "POST", "/v2/a/blobs/uploads", "repository:a:pull,push" },
    { "POST", "/v2/a/blobs/uploads/?from=a", "repository:a:pull,push" },
    { "GET", "/v2/a/blobs/uploads/?from=a", "repository:a:pull" },
    { "DELETE", "/v2/a/manifests/1?from=a", "repository:a:delete,* repository:a:pull" },
    { "GET", "/v2/a/blobs/uploads/blobs/uploads/", "repository:a/blobs/uploads:pull" },
  } do
    local method, target, scopes = case[1], case[2], case[3]
    it(("for %s %s is %s"):format(method, target, scopes), function()
      assert.equal(scopes, ask_scopes(target, method))
    end)
  end

  -- A mount from an invalid name becomes an upload. Each: the query, and the part of it that the registry receives.
  for _, case in ipairs {
    { "from=B" }, { "from=../b" }, { "from=b/" }, { "from=b:pull,push%20repository:c" }, { "from=b%00" },
    { "from=b%20c" }, { "from=b+c" }, { "from=%zz" }, { "from=b%252Fc" }, { "from=b%0d%0aX:y" },
    { "from=" .. ("b"):rep(256) }, { "from=B&from=b" }, { "from=b#" }, { "from=*" }, { ("from=B&"):rep(3000) },
    { "mount=sha256:b&from=B" }, { "from=B&mount=sha256:b" }, { "digest=sha256%3Ab&from=B", "digest=sha256%3Ab" },
    { "x=1&mount=a&%66%72%6f%6D=B&%6D%6F%75%6E%74=c&y=2&fromm=3&mounts&mount&from", "x=1&y=2&fromm=3&mounts" },
  } do
    local query, remains = case[1], case[2]

    it(("does not include a source with an invalid name: %.60s"):format(query), function()
      local answer = ask("/v2/a/blobs/uploads/?" .. query, "POST")
      assert.equal("repository:a:pull,push", gateway_bed.read_scopes(answer))
      assert.equal("/v2/a/blobs/uploads/" .. (remains and "?" .. remains or ""),
        (gateway_bed.read_echo(answer).target:gsub("[?&]*$", "")))
    end)
  end

  -- The gateway remembers the scopes of 512 targets.
  it("depends on the method for a target that was requested before, and after 600 other targets", function()
    local target = "/v2/team/app/manifests/known"
    for _ = 1, 2 do
      for _ = 1, 2 do
        assert.equal("repository:team/app:pull", ask_scopes(target, "GET"))
        assert.equal("repository:team/app:pull,push", ask_scopes(target, "PUT"))
        assert.equal("repository:team/app:delete,*", ask_scopes(target, "DELETE"))
      end
      local answers = load.run(gate.port, 600, function(i) return bed:request(target .. i) end, 16, true)
      assert.same({ [200] = 600 }, load.count(answers))
      assert.equal("repository:team/app:pull", gateway_bed.read_scopes(answers[600]))
    end
  end)

  it("is requested for the service of the gateway", function()
    assert.equal("token-service", gateway_bed.read_claims(ask "/v2/a/manifests/service").aud)
  end)

  it("follows from the path of a target that names a host, too", function()
    local answer = load.request(gate.port, { raw = ("GET http://elsewhere/v2/a/manifests/1 HTTP/1.1\r\n"
      .. "Host: a\r\nAuthorization: %s\r\n\r\n"):format(bed.credential) })
    assert.equal("repository:a:pull", gateway_bed.read_scopes(answer))
    assert.equal("/v2/a/manifests/1", gateway_bed.read_echo(answer).target)
  end)

  local refused = {
    -- escapes
    "/v2/a%2Fb/manifests/1", "/v2/a%2fb/manifests/1", "/v2/a/manifests/1%2F..%2F..", "/v2/a/%2e%2e/manifests/1",
    "/v2/a/%2E/manifests/1", "/v2/a/manifests/%2e%2e/1", "/v2/a%252Fb/manifests/1", "/v2/%61/manifests/1",
    "/v2/a/m%61nifests/1", "/v2/a/manifests/1%20", "/v2/a/manifests/1%0d%0aX:%20y", "/v2/a/manifests/%31",
    "/v2/a/manifests/1%3F", "/v2/_%63atalog", "/v%32/", "/v2%2F", "/%76%32/a/manifests/1",
    "/v2/a%3Ab/manifests/1", "/v2/%3A/manifests/1", "/v2/a/tags%3Alist", "/v2/_catalog%3A",
    -- slashes and dots
    "//v2/a/manifests/1", "/v2//a/manifests/1", "/v2/a//b/manifests/1", "/v2/a//manifests/1", "/v2/a/manifests//1",
    "/v2/a/manifests/1/", "/v2/a/manifests/1//", "/v2//", "/v2/_catalog/", "/v2//_catalog", "/v2/a/tags/list/",
    "/v2/a/../b/manifests/1", "/v2/./a/manifests/1", "/v2/a/./manifests/1", "/v2/a/b/../manifests/1",
    "/v2/a/manifests/.", "/v2/a/manifests/..", "/v2/a/blobs/..", "/v2/a/blobs/uploads/..", "/v2/a/blobs/uploads/.",
    "/v2/.", "/v2/a/..", "/x/../v2/a/manifests/1", "/./v2/a/manifests/1", "/v2/../v2/a/manifests/1",
    "/v2/a/b/../../v2/", "/v2/_catalog/../_catalog",
    -- names
    "/v2/A/manifests/1", "/v2/a/B/manifests/1", "/v2/-a/manifests/1", "/v2/a-/manifests/1", "/v2/a../manifests/1",
    "/v2/.a/manifests/1", "/v2/a..b/manifests/1", "/v2/a___b/manifests/1", "/v2/a._b/manifests/1",
    "/v2/_a/manifests/1", "/v2/a+b/manifests/1", "/v2/a:5000/b/manifests/1", "/v2/a,b/manifests/1",
    "/v2/a*/manifests/1", "/v2/a;b/manifests/1", "/v2/a@b/manifests/1", "/v2/\195\169/manifests/1",
    "/v2/a\\b/manifests/1", '/v2/a"b/manifests/1', "/v2/" .. ("a"):rep(256) .. "/manifests/1",
    "/v2/" .. ("a/"):rep(128) .. "a/manifests/1", "/v2/" .. ("a-"):rep(900) .. "/manifests/1",
    "/v2/" .. ("a/"):rep(1000) .. "manifests/1", "/v2/a/manifests/" .. ("1"):rep(2048),
    "/v2/" .. ("a/manifests/"):rep(2000) .. "1",
    -- not an endpoint
    "/v2/a", "/v2/a/", "/v2/a/b", "/v2/a/manifests", "/v2/a/manifests/", "/v2/a/blobs", "/v2/a/blobs/",
    "/v2/a/manifests/1/2", "/v2/a/blobs/" .. DIGEST .. "/x", "/v2/a/tags", "/v2/a/tags/", "/v2/a/tags/latest",
    "/v2/a/referrers", "/v2/a/referrers/", "/v2/a/referrers/1/2", "/v2/a/blobs/uploads/x/y", "/v2/a/uploads/",
    "/v2/manifests/1", "/v2/blobs/1", "/v2/tags/list", "/v2/_catalog/a", "/v2/_catalogue", "/v2/_catalog/manifests/1",
    "/v2/a/Manifests/1", "/v2/a/manifestsx/1", "/v2/token", "/v2/a/manifests/1;x", "/v2/a/manifests/1#x",
    "/v2/a/manifests/1\\..\\2", "/v2/a/manifests/1,2", "/v2/a/manifests/1&from=b", "/v2/a/manifests/?x",
  }

  local function assert_refused(answer, target)
    assert.equal(404, answer.status, target)
    assert.equal("NAME_INVALID", (gateway_bed.read_error(answer)), target)
  end

  it("is none if the request is not for an endpoint", function()
    bed.stub:reset()
    for _, target in ipairs(refused) do
      assert_refused(ask(target), target)
      assert_refused(ask(target, "POST"), target)
    end
    assert.same({}, bed.stub:requests())
  end)

  it("is none for targets that nginx does not pass to the hook", function()
    bed.stub:reset()
    for _, target in ipairs { "/v2/../a/manifests/1", "/v2/../../v2/a/manifests/1", "/v2/a/manifests/1%00", "/v2",
      "/v2/a/manifests/1%", "/v2/%2e%2e/b/manifests/1", "/v2/..%2f..%2fb/manifests/1", "*", "/V2/a/manifests/1" } do
      local answer = ask(target)
      assert.is_true(answer.status >= 300 and answer.status < 500, target)
      assert.is_false((pcall(gateway_bed.read_echo, answer)), target)
    end
    assert.same({}, bed.stub:requests())
  end)

  for _, method in ipairs { "OPTIONS", "PROPFIND", "MKCOL", "LOCK", "COPY" } do
    it("is none for " .. method, function()
      bed.stub:reset()
      for _, target in ipairs { "/v2/", "/v2/a/manifests/1", "/v2/a//b" } do
        local answer = ask(target, method)
        assert.equal(405, answer.status)
        assert.equal(METHODS, answer.headers.allow)
        assert.equal("UNSUPPORTED", (gateway_bed.read_error(answer)))
      end
      assert.same({}, bed.stub:requests())
    end)
  end

  it("is none for methods that nginx does not accept", function()
    bed.stub:reset()
    for _, method in ipairs { "TRACE", "CONNECT", "get", "Get" } do
      local answer = ask("/v2/a/manifests/1", method)
      assert.is_true(answer.status == 400 or answer.status == 405, method)
    end
    assert.same({}, bed.stub:requests())
  end)
end)

describe("the access for DELETE", function()
  local bed
  setup(function() bed = gateway_bed.open() end)
  teardown(function() gateway_bed.close(bed) end)

  for _, actions in ipairs { "delete", "*", "pull,delete" } do
    it("is " .. actions .. " where delete_actions says so", function()
      local gate = bed:start { workers = 1, gateway = ("delete_actions = %q"):format(actions) }
      local scopes = gateway_bed.read_scopes(load.request(gate.port, bed:request("/v2/a/manifests/1", "DELETE")))
      assert.equal("repository:a:" .. actions, scopes)
      gate:stop()
    end)
  end
end)

describe("the function 'scope'", function()
  local bed, gate

  setup(function()
    bed = gateway_bed.open()
    -- the request contains the Lua code of the function
    gate = bed:start { gateway = [[scope = function() return loadstring(ngx.var.http_x_scope, "=header")() end]] }
  end)
  teardown(function() gateway_bed.close(bed) end)
  before_each(function() bed.stub:reset() end)

  local function ask(code, target, method)
    return load.request(gate.port, bed:request(target or "/v2/whatever//it/is", method, { ["X-Scope"] = code }))
  end

  -- what it does, its code, the scopes
  for _, case in ipairs {
    { "a list", 'return { "repository:a:pull", "registry:catalog:*" }', "registry:catalog:* repository:a:pull" },
    { "a string", 'return "repository:b:pull"', "repository:b:pull" },
    { "a string of several", 'return " repository:d:pull  repository:c:pull "', "repository:c:pull repository:d:pull" },
    { "one twice", 'return { "repository:e:pull", "repository:e:pull" }', "repository:e:pull" },
    { "an empty list", "return {}", "" },
    { "an empty string", "return ''", "" },
  } do
    it("may return " .. case[1], function()
      assert.equal(case[3], gateway_bed.read_scopes(ask(case[2])))
    end)
  end

  it("decides for any method and path", function()
    assert.equal("repository:f:pull", gateway_bed.read_scopes(ask('return "repository:f:pull"', "/v2/A", "OPTIONS")))
  end)

  it("requests the same access in any order", function()
    ask 'return { "repository:g:pull", "repository:h:pull" }'
    ask 'return "repository:h:pull repository:g:pull"'
    assert.equal(1, #bed.stub:requests())
  end)

  it("has the request refused if it returns nil", function()
    local answer = ask "return nil"
    assert.equal(404, answer.status)
    assert.equal("NAME_INVALID", (gateway_bed.read_error(answer)))
    assert.same({}, bed.stub:requests())
  end)

  for _, code in ipairs { "return 1", "return true", "return false", "return { 1 }", "return { a = 'b' }",
    "return { 'a', 2 }", "return { { 'a' } }", [[return "a\r\nX: y"]], [[return { "a\0b" }]], [[return "\127"]],
    [[return "\255"]], "return print", "error('hush: a secret')", "error({ 'hush' })", "error()", "error(nil)",
    "local a = nil; return a.b", "ngx.sleep('x')" } do
    it("fails closed with " .. code, function()
      local answer = ask(code)
      assert.equal(500, answer.status)
      assert.equal("UNKNOWN", (gateway_bed.read_error(answer)))
      assert.same({}, bed.stub:requests())
    end)
  end

  it("has only the position of its error in the log", function()
    ask "error('hush: a secret')"
    assert.matches("the function of option 'scope' raised an error at header:1:", gate:log(), 1, true)
    assert.is_nil(gate:log():find("hush", 1, true))
  end)

  it("has nothing of an error without a position in the log", function()
    ask "error('hush at 10:30: a secret', 0)"
    assert.matches("the function of option 'scope' raised an error", gate:log())
    assert.is_nil(gate:log():find("hush", 1, true))
  end)
end)
