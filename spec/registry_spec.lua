-- A real registry accepts the tokens: Debian's docker-registry, which trusts the fake ICP's signing certificate.

local cjson = require "cjson"
local files = require "support.files"
local http = require "socket.http"
local icptoken = require "icptoken"
local interpreter = require "support.interpreter"
local ltn12 = require "ltn12"
local registry_server = require "support.registry"
local stub_client = require "stub.client"

local SERVICE = "token-service"
local REPOSITORY = "default/app"
local CATALOG = "registry:catalog:*"
local MANIFEST_TYPE = "application/vnd.docker.distribution.manifest.v2+json"

local stub
local registry

setup(function()
  stub = stub_client.share()
  registry = registry_server.start { service = SERVICE, certificate = stub.token_signing_cert,
    realm = ("https://localhost:%d/image-manager/api/v1/auth/token"):format(stub.port) }
end)

teardown(function()
  if registry then registry.stop() end
  stub:stop()
end)

-- With the ID token, unless the request has a user name and password.
local function fetch(request)
  local client = icptoken.new { host = "localhost", port = stub.port, cacert = stub.ca, id_token = stub.id_token }
  local answer = assert(client:fetch(request))
  client:close()
  return answer.token
end

-- Returns the status, the headers and the body.
local function ask(method, target, token, body, content_type)
  local chunks = {}
  local url = target:match "^http" and target or "http://" .. registry.address .. target
  local headers = { Authorization = token and "Bearer " .. token, Accept = MANIFEST_TYPE }
  if body then
    headers["Content-Length"] = ("%d"):format(#body)
    headers["Content-Type"] = content_type or "application/octet-stream"
  end
  local _, status, answered = http.request {
    url = url, method = method, headers = headers, redirect = false, sink = ltn12.sink.table(chunks),
    source = body and ltn12.source.string(body),
  }
  return status, answered, table.concat(chunks)
end

local function compute_digest(content)
  local path = os.tmpname()
  files.write(path, content)
  local process = assert(io.popen("sha256sum " .. interpreter.quote(path)))
  local hash = process:read "*a":match "^%x+"
  process:close()
  os.remove(path)
  return "sha256:" .. assert(hash, "sha256sum gave nothing")
end

local function push_blob(token, content)
  local status, headers = ask("POST", "/v2/" .. REPOSITORY .. "/blobs/uploads/", token, "")
  assert.equal(202, status)
  local digest = compute_digest(content)
  local place = headers.location .. (headers.location:find("?", 1, true) and "&" or "?") .. "digest=" .. digest
  assert.equal(201, (ask("PUT", place, token, content)))
  return { digest = digest, size = #content }
end

local MANIFEST = [[{"schemaVersion":2,"mediaType":"%s","layers":[],
  "config":{"mediaType":"application/vnd.docker.container.image.v1+json","size":%d,"digest":"%s"}}]]

-- Pushes an image without layers and returns its manifest.
local function push_image(token, tag)
  local configuration = push_blob(token, '{"architecture":"amd64","os":"linux","rootfs":{"type":"layers"}}')
  local manifest = MANIFEST:format(MANIFEST_TYPE, configuration.size, configuration.digest)
  local status = ask("PUT", ("/v2/%s/manifests/%s"):format(REPOSITORY, tag), token, manifest, MANIFEST_TYPE)
  assert.equal(201, status)
  return manifest
end

describe("a real registry", function()
  it("asks for a token for the service", function()
    local status, headers = ask("GET", "/v2/_catalog")
    assert.equal(401, status)
    assert.matches('service="token-service"', headers["www-authenticate"], 1, true)
    assert.matches('scope="registry:catalog:*"', headers["www-authenticate"], 1, true)
  end)

  it("accepts a token for the service and the scope", function()
    local status, _, body = ask("GET", "/v2/_catalog", fetch { service = SERVICE, scope = CATALOG })
    assert.equal(200, status, body)
    assert.is_table(cjson.decode(body).repositories)
  end)

  it("accepts one that was fetched with user name and password", function()
    local token = fetch { service = SERVICE, scope = CATALOG, username = stub.username, password = stub.password }
    assert.equal(200, (ask("GET", "/v2/_catalog", token)))
  end)

  it("accepts one for the service alone if no scope is required", function()
    assert.equal(200, (ask("GET", "/v2/", fetch { service = SERVICE })))
  end)

  it("refuses a token without a service", function()
    local status, headers = ask("GET", "/v2/_catalog", fetch {})
    assert.equal(401, status)
    assert.matches('error="invalid_token"', headers["www-authenticate"], 1, true)
  end)

  it("refuses a token for another service", function()
    local status, headers = ask("GET", "/v2/_catalog", fetch { service = "another", scope = CATALOG })
    assert.equal(401, status)
    assert.matches('error="invalid_token"', headers["www-authenticate"], 1, true)
  end)

  it("refuses a token for another scope", function()
    local token = fetch { service = SERVICE, scope = "repository:" .. REPOSITORY .. ":pull" }
    local status, headers = ask("GET", "/v2/_catalog", token)
    assert.equal(401, status)
    assert.matches('error="insufficient_scope"', headers["www-authenticate"], 1, true)
  end)

  it("accepts a push with one token and a pull with another", function()
    local manifest = push_image(fetch { service = SERVICE, scope = "repository:" .. REPOSITORY .. ":pull,push" }, "1")
    local pull = fetch { service = SERVICE, scope = "repository:" .. REPOSITORY .. ":pull" }
    local status, _, body = ask("GET", ("/v2/%s/manifests/1"):format(REPOSITORY), pull)
    assert.equal(200, status)
    assert.equal(manifest, body)
    assert.equal(401, (ask("POST", "/v2/" .. REPOSITORY .. "/blobs/uploads/", pull, "")))
  end)

  it("accepts one token for several scopes", function()
    local token = fetch { service = SERVICE, scope = { CATALOG, "repository:" .. REPOSITORY .. ":pull,push" } }
    push_image(token, "2")
    local status, _, body = ask("GET", "/v2/_catalog", token)
    assert.equal(200, status)
    assert.same({ REPOSITORY }, cjson.decode(body).repositories)
  end)
end)
