-- icptoken credential-provider: the kubelet's protocol.

local cjson = require "cjson"
local command = require "support.command"

local V1 = "credentialprovider.kubelet.k8s.io/v1"

local stub, bed

setup(function() stub, bed = command.begin() end)
teardown(function() command.finish(stub, bed) end)
before_each(function()
  command.reset(stub, bed, [[,"registries":{
    "registry.example.com":{"cluster":"prod","gateway_user":"id-token"},
    "port.example.com:5000":{"cluster":"prod","gateway_user":"id-token"},
    "mycluster.icp:8500":{"cluster":"prod"}}]])
end)

local function request(image, version)
  return cjson.encode { apiVersion = version or V1, kind = "CredentialProviderRequest", image = image }
end

local function provide(input, env)
  return bed:run { "credential-provider", stdin = input, env = env or { ID_TOKEN = stub.id_token } }
end

describe("icptoken credential-provider #short", function()
  it("answers with the gateway's user and the ID token, for as long as it is valid", function()
    local status, out, err = provide(request "registry.example.com/default/app:1.0")
    assert.same({ 0, "" }, { status, err })
    local response = cjson.decode(out)
    local seconds = tonumber(response.cacheDuration:match "^(%d+)s$")
    -- the stub's ID tokens are valid for 12 hours
    assert.is_true(seconds > 0 and seconds <= 12 * 3600 - 60, response.cacheDuration)
    response.cacheDuration = nil
    assert.same({ kind = "CredentialProviderResponse", apiVersion = V1, cacheKeyType = "Registry",
      auth = { ["registry.example.com"] = { username = "id-token", password = stub.id_token } } }, response)
  end)

  it("answers in the version of the request, by host and port", function()
    for _, name in ipairs { "v1", "v1beta1", "v1alpha1" } do
      local version = "credentialprovider.kubelet.k8s.io/" .. name
      local status, out = provide(request("port.example.com:5000/a/b@sha256:" .. ("0"):rep(64), version))
      assert.equal(0, status)
      local response = cjson.decode(out)
      assert.equal(version, response.apiVersion)
      assert.equal("id-token", response.auth["port.example.com:5000"].username)
    end
  end)

  it("uses the session, or a file", function()
    assert.equal(0, (bed:run { "login", "-u", stub.username, "--password-stdin", stdin = stub.password }))
    local status, out = provide(request "registry.example.com/a", {})
    assert.equal(0, status)
    assert.matches("^eyJ", cjson.decode(out).auth["registry.example.com"].password)
    assert.equal(0, (bed:run { "logout" }))
    status, out = provide(request "registry.example.com/a", { ICPTOKEN_ID_TOKEN_FILE = stub.id_token_file })
    assert.equal(0, status)
    assert.equal(stub.id_token, cjson.decode(out).auth["registry.example.com"].password)
  end)

  it("does not let the kubelet cache a token that does not say when it expires", function()
    local status, out = provide(request "registry.example.com/a", { ID_TOKEN = "opaque" })
    assert.equal(0, status)
    assert.equal("0s", cjson.decode(out).cacheDuration)
  end)

  it("has nothing for a registry that is not in the configuration", function()
    local status, out, err = provide(request "docker.io/library/nginx")
    assert.equal(0, status)
    assert.same({ kind = "CredentialProviderResponse", apiVersion = V1, cacheKeyType = "Registry",
      cacheDuration = "0s" }, cjson.decode(out))
    assert.matches("docker.io is not among the registries of ", err, 1, true)
  end)

  it("returns the credential that another helper keeps", function()
    bed:write("bin/docker-credential-fake",
      '#!/bin/sh\necho \'{"ServerURL":"x","Username":"u","Secret":"p"}\'\n', "755")
    bed:configure(command.configuration(stub, ([[,"credential_store":"%s","registries":{
      "mycluster.icp:8500":{"cluster":"prod"}}]]):format(bed:path "bin/docker-credential-fake")))
    local status, out = provide(request "mycluster.icp:8500/default/app", {})
    assert.equal(0, status)
    local response = cjson.decode(out)
    assert.same({ username = "u", password = "p" }, response.auth["mycluster.icp:8500"])
    assert.is_nil(response.cacheDuration)
  end)

  it("fails with exit status 1 and a message on standard error only", function()
    for input, words in pairs {
      [""] = "no request on standard input", ["{}"] = "is not a CredentialProviderRequest", ["[]"] = "no request",
      [request("a", "credentialprovider.kubelet.k8s.io/v9")] = "apiVersion 'credentialprovider.kubelet.k8s.io/v9'",
      ['{"apiVersion":"' .. V1 .. '","kind":"CredentialProviderRequest"}'] = "names no image",
      [request "mycluster.icp:8500/default/app"] = "--gateway-user" } do
      local status, out, err = provide(input)
      assert.same({ 1, "" }, { status, out })
      assert.matches(words, err, 1, true)
    end
    local status, out, err = provide(request "registry.example.com/a", {})
    assert.same({ 1, "" }, { status, out })
    assert.matches("icptoken login", err, 1, true)
  end)
end)
