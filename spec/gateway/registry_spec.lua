-- docker's and skopeo's own ways through the gateway to a real registry, with either challenge. docker itself is not
-- needed here: its steps are those of https://distribution.github.io/distribution/spec/auth/token/ and .../spec/api/.
-- Whether skopeo succeeded is judged by its exit status and by the requests at the registry and the cluster, because
-- its messages change from version to version.

local cjson = require "cjson"
local files = require "support.files"
local icptoken = require "icptoken"
local load = require "support.load"
local mime = require "mime"
local registry_bed = require "support.registry_bed"
local stub_client = require "stub.client"

local ask, to_basic = registry_bed.ask, registry_bed.to_basic
local MANIFEST_TYPE = registry_bed.MANIFEST_TYPE
local TOKEN_PATH, LOGIN_PATH = registry_bed.TOKEN_PATH, registry_bed.LOGIN_PATH

local bed, stub, directory, pushed

setup(function()
  bed = registry_bed.open()
  stub, directory, pushed = bed.stub, bed.directory, bed.image
end)

teardown(function() registry_bed.close(bed) end)

before_each(function() bed:forget() end)

-- ---- skopeo ----

-- Runs skopeo. Returns whether it succeeded, and what it printed. Its cache of layers goes into our directory, for
-- which it must not believe that it is root.
local function run_skopeo(...)
  return bed:run({ "skopeo", ... }, { XDG_DATA_HOME = directory, _CONTAINERS_ROOTLESS_UID = "1" })
end

local function name_image(gate, repository)
  return ("docker://127.0.0.1:%d/%s:1"):format(gate.port, repository)
end

local function push_image(gate, authfile, repository)
  return run_skopeo("copy", "--authfile", authfile, "--dest-tls-verify=false", "dir:" .. directory .. "/image",
    name_image(gate, repository))
end

local function inspect(gate, authfile, repository)
  return run_skopeo("inspect", "--authfile", authfile, "--tls-verify=false", name_image(gate, repository))
end

local function pull_image(gate, authfile, repository)
  local place = bed:make_directory("back-" .. repository:gsub("/", "-"))
  local ok, output = run_skopeo("copy", "--authfile", authfile, "--src-tls-verify=false", name_image(gate, repository),
    "dir:" .. place)
  return ok, output, place
end

-- ---- docker's steps ----

-- As a client does with a Bearer challenge: sends the user name and password to its realm.
local function ask_realm(challenge, authorization)
  local port, target = challenge.realm:match "^http://127%.0%.0%.1:(%d+)(/.*)$"
  target = target .. "?account=admin&client_id=docker&offline_token=true&service=" .. challenge.service
  return load.request(tonumber(port), { target = target, headers = { Authorization = authorization } })
end

-- As docker does: gets the Authorization value for all further requests from the answer to one without it.
local function log_in(gate, scheme)
  local credential = to_basic("admin", "admin")
  local refusal = ask(gate, "GET", "/v2/")
  assert.equal(401, refusal.status)
  assert.equal("registry/2.0", refusal.headers["docker-distribution-api-version"])
  assert.equal(scheme, refusal.headers["www-authenticate"]:match("^%a+"):lower())
  if scheme == "basic" then return credential end
  local answer = ask_realm(icptoken.challenge(refusal.headers["www-authenticate"]), credential)
  assert.equal(200, answer.status, answer.body)
  return "Bearer " .. cjson.decode(answer.body).token
end

local function cut_origin(gate, location)
  local target = location:match("^http://127%.0%.0%.1:" .. gate.port .. "(/.*)$")
  return assert(target, "not at the gateway: " .. location)
end

local function add_query(target, field)
  return target .. (target:find("?", 1, true) and "&" or "?") .. field
end

-- In two steps, as docker does.
local function push_blob(gate, authorization, repository, content)
  local begun = ask(gate, "POST", ("/v2/%s/blobs/uploads/"):format(repository), authorization, "")
  assert.equal(202, begun.status, begun.body)
  local sent = ask(gate, "PATCH", cut_origin(gate, begun.headers.location), authorization, content,
    "application/octet-stream")
  assert.equal(202, sent.status, sent.body)
  local digest = "sha256:" .. registry_bed.image.hash(content)
  local target = add_query(cut_origin(gate, sent.headers.location), "digest=" .. digest)
  assert.equal(201, ask(gate, "PUT", target, authorization, "").status)
end

local function push_steps(gate, authorization, repository)
  for name, content in pairs(pushed.contents) do
    if #name == 64 then push_blob(gate, authorization, repository, content) end
  end
  local answer = ask(gate, "PUT", ("/v2/%s/manifests/1"):format(repository), authorization,
    pushed.contents["manifest.json"], MANIFEST_TYPE)
  assert.equal(201, answer.status, answer.body)
  assert.equal(pushed.manifest, answer.headers["docker-content-digest"])
end

for _, name in ipairs(registry_bed.CHALLENGES) do
  describe("the gateway with challenge = " .. name, function()
    local gate

    setup(function() gate = bed.gates[name] end)

    it("accepts a push, a pull, a list and a deletion in docker's steps", function()
      local repository = name .. "/steps"
      local authorization = log_in(gate, name)
      assert.equal(200, ask(gate, "GET", "/v2/", authorization).status)
      push_steps(gate, authorization, repository)
      local place = "/v2/" .. repository
      assert.equal(pushed.manifest,
        ask(gate, "HEAD", place .. "/manifests/1", authorization).headers["docker-content-digest"])
      assert.equal(pushed.contents["manifest.json"], ask(gate, "GET", place .. "/manifests/1", authorization).body)
      assert.equal(pushed.contents[pushed.layer:sub(8)],
        ask(gate, "GET", place .. "/blobs/" .. pushed.layer, authorization).body)
      assert.same({ name = repository, tags = { "1" } },
        cjson.decode(ask(gate, "GET", place .. "/tags/list", authorization).body))
      assert.matches('"' .. repository .. '"', ask(gate, "GET", "/v2/_catalog", authorization).body, 1, true)
      assert.equal(202, ask(gate, "DELETE", place .. "/manifests/" .. pushed.manifest, authorization).status)
      assert.equal(404, ask(gate, "GET", place .. "/manifests/1", authorization).status)
    end)

    it("mounts a layer from another repository", function()
      local from, to = name .. "/mounted", name .. "/mounting"
      local authorization = log_in(gate, name)
      push_steps(gate, authorization, from)
      local answer = ask(gate, "POST", ("/v2/%s/blobs/uploads/?mount=%s&from=%s"):format(to, pushed.layer, from),
        authorization, "")
      assert.equal(201, answer.status, answer.body)
      assert.equal(pushed.layer, answer.headers["docker-content-digest"])
      local scopes = bed:list_scopes()
      assert.equal(("repository:%s:pull,push repository:%s:pull"):format(to, from), scopes[#scopes])
    end)

    -- Both ways in which a token service says that it does not grant a part of the requested access.
    for how, order in pairs {
      ["with 403"] = function() return { status = 403 } end,
      ["by granting less"] = function(to)
        return { claims = { access = { { type = "repository", name = to, actions = { "pull", "push" } } } } }
      end,
    } do
      it("has a client upload what it may not mount, which the cluster says " .. how, function()
        local suffix = how:match "^%a+"
        local from, to = ("%s/secret-%s"):format(name, suffix), ("%s/public-%s"):format(name, suffix)
        local authorization = log_in(gate, name)
        push_steps(gate, authorization, from)
        local refusal = order(to)
        refusal.path = TOKEN_PATH
        stub:reset()
        stub:set { id_tokens = { authorization:match "^Bearer (.*)" } }
        stub:plan(refusal)
        for layer, content in pairs(pushed.contents) do
          if #layer == 64 then
            local begun = ask(gate, "POST", ("/v2/%s/blobs/uploads/?mount=sha256%%3A%s&from=%s"):format(to, layer,
              (from:gsub("/", "%%2F"))), authorization, "")
            assert.equal(202, begun.status, begun.body)
            local target = add_query(cut_origin(gate, begun.headers.location), "digest=sha256:" .. layer)
            assert.equal(201, ask(gate, "PUT", target, authorization, content, "application/octet-stream").status)
          end
        end
        local scopes = bed:list_scopes()
        assert.same({ ("repository:%s:pull,push repository:%s:pull"):format(to, from),
          ("repository:%s:pull,push"):format(to) }, { scopes[1], scopes[2] })
      end)
    end

    it("does not permit a mount into a repository to which the client may not push", function()
      local authorization = log_in(gate, name)
      stub:plan { path = TOKEN_PATH, status = 403, times = 2 }
      local answer = ask(gate, "POST", ("/v2/%s/denied/blobs/uploads/?mount=%s&from=%s/steps"):format(name,
        pushed.layer, name), authorization, "")
      assert.equal(name == "basic" and 403 or 401, answer.status, answer.body)
      assert.matches("DENIED", answer.body, 1, true)
    end)

    it("accepts a push, a pull, a list and a deletion of skopeo", function()
      local repository = name .. "/skopeo"
      local authfile = bed:write_authfile(gate, "admin", "admin")
      assert(push_image(gate, authfile, repository))
      local ok, output = run_skopeo("list-tags", "--authfile", authfile, "--tls-verify=false",
        ("docker://127.0.0.1:%d/%s"):format(gate.port, repository))
      assert.is_true(ok, output)
      assert.same({ "1" }, cjson.decode(output).Tags)
      local place
      ok, output, place = pull_image(gate, authfile, repository)
      assert.is_true(ok, output)
      assert.is_true(registry_bed.image.is_same(pushed.contents, place))
      assert(run_skopeo("delete", "--authfile", authfile, "--tls-verify=false", name_image(gate, repository)))
      assert.is_false(inspect(gate, authfile, repository))
      assert.equal(404, ask(gate, "GET", "/v2/" .. repository .. "/manifests/1", log_in(gate, name)).status)
    end)

    it("lets skopeo mount a layer that it has pushed to another repository", function()
      local authfile = bed:write_authfile(gate, "admin", "admin")
      assert(push_image(gate, authfile, name .. "/first"))
      assert(push_image(gate, authfile, name .. "/second"))
      assert.matches(("repository:%s/second:pull,push repository:%s/"):format(name, name),
        table.concat(bed:list_scopes(), "\n"), 1, true)
      assert(pull_image(gate, authfile, name .. "/second"))
    end)

    it("accepts an ID token as skopeo's password for token_user, without a login", function()
      local repository = name .. "/id-token"
      local authfile = bed:write_authfile(gate, "id-token", stub.id_token)
      local ok, output = push_image(gate, authfile, repository)
      assert.is_true(ok, output)
      local place
      ok, output, place = pull_image(gate, authfile, repository)
      assert.is_true(ok, output)
      assert.is_true(registry_bed.image.is_same(pushed.contents, place))
      for _, request in ipairs(stub:requests()) do
        assert.equal(TOKEN_PATH, request.path)
        assert.equal("Bearer " .. stub.id_token, stub_client.header(request, "Authorization"))
      end
    end)

    it("lets skopeo read nothing with a wrong password", function()
      local repository = name .. "/guarded"
      assert(push_image(gate, bed:write_authfile(gate, "admin", "admin"), repository))
      stub:reset()
      assert.is_false(inspect(gate, bed:write_authfile(gate, "admin", "wrong"), repository))
      assert.is_true(#stub:requests() > 0)
      for _, request in ipairs(stub:requests()) do
        if name == "bearer" then
          assert.equal(LOGIN_PATH, request.path)
        else
          assert.equal(to_basic("admin", "wrong"), stub_client.header(request, "Authorization"))
        end
      end
    end)

    it("lets skopeo log in with the right password only", function()
      for password, is_right in pairs { admin = true, wrong = false } do
        local authfile = directory .. "/login.json"
        os.remove(authfile)
        local ok, output = run_skopeo("login", "--authfile", authfile, "--tls-verify=false", "-u", "admin",
          "-p", password, "127.0.0.1:" .. gate.port)
        assert.equal(is_right, ok, output)
        local logins = is_right and cjson.decode(files.read(authfile)).auths or {}
        assert.equal(is_right, logins["127.0.0.1:" .. gate.port] ~= nil)
      end
    end)

    it("lets skopeo log in as token_user with an ID token of the cluster's only", function()
      for id_token, is_right in pairs { [stub.id_token] = true, ["any-other-word"] = false } do
        local authfile = directory .. "/login-token.json"
        os.remove(authfile)
        local ok, output = run_skopeo("login", "--authfile", authfile, "--tls-verify=false", "-u", "id-token",
          "-p", id_token, "127.0.0.1:" .. gate.port)
        assert.equal(is_right, ok, output)
        local logins = is_right and cjson.decode(files.read(authfile)).auths or {}
        assert.equal(is_right, logins["127.0.0.1:" .. gate.port] ~= nil)
      end
    end)

    it("lets skopeo read nothing without a credential", function()
      local repository = name .. "/guarded"
      assert(push_image(gate, bed:write_authfile(gate, "admin", "admin"), repository))
      stub:reset()
      assert.is_false(run_skopeo("inspect", "--no-creds", "--tls-verify=false", name_image(gate, repository)))
      assert.equal(0, #stub:requests())
    end)
  end)
end

describe("skopeo with challenge = bearer", function()
  -- Runs it several times. Returns the token requests and logins at the cluster.
  local function count_requests(name)
    bed:forget()
    local gate = bed.gates[name]
    local authfile = bed:write_authfile(gate, "admin", "admin")
    for i = 1, 2 do
      assert.is_true(push_image(gate, authfile, name .. "/counted"))
      assert.is_true(inspect(gate, authfile, name .. "/counted"))
      assert.is_true((pull_image(gate, authfile, name .. "/counted")), "run " .. i)
    end
    return bed:count_requests()
  end

  it("costs the cluster as much as with basic, and one login", function()
    local tokens, logins = count_requests "bearer"
    local tokens_with_basic, logins_with_basic = count_requests "basic"
    assert.same({ tokens_with_basic, 1, 0 }, { tokens, logins, logins_with_basic })
  end)

  it("with a wrong password costs one login", function()
    local gate = bed.gates.bearer
    for _ = 1, 2 do
      assert.is_false((push_image(gate, bed:write_authfile(gate, "admin", "wrong"), "bearer/refused")))
    end
    assert.equal(1, #stub:requests())
  end)
end)

-- An order for the stub, and the status of the gateway's answer.
local FAILURES = {
  { "fails", { status = 500 }, 502 },
  { "sends nonsense", { body = "<html>" }, 502 },
  { "is overloaded", { status = 503, headers = { { "Retry-After", "7" } } }, 503 },
  { "forbids it", { status = 403 }, 403 },
  { "hangs", { delay = { before = 60 } }, 504 },
}

local function plan_forever(path, order)
  local planned = { path = path, times = "forever" }
  for name, value in pairs(order) do planned[name] = value end
  stub:plan(planned)
end

describe("when the token endpoint", function()
  local patient, hasty

  setup(function()
    patient = bed.gates.basic
    hasty = bed:start_gateway { timeout = 1 }
  end)

  local function list_repositories()
    return cjson.decode(ask(patient, "GET", "/v2/_catalog", to_basic("admin", "admin")).body).repositories
  end

  for i, failure in ipairs(FAILURES) do
    local what, order, status = unpack(failure)
    it(("%s, skopeo fails and pushes nothing, as the answer is %d"):format(what, status), function()
      local gate = status == 504 and hasty or patient
      local authfile = bed:write_authfile(gate, "admin", "admin")
      local readable, pushable = "failing/read" .. i, "failing/pushed" .. i
      push_steps(patient, to_basic("admin", "admin"), readable)
      local before = list_repositories()
      plan_forever(TOKEN_PATH, order)
      local target = ("/v2/failing/http%d/manifests/1"):format(i)
      assert.equal(status, ask(gate, "GET", target, to_basic("admin", "admin")).status)
      assert.is_false(inspect(gate, authfile, readable))
      assert.is_false(push_image(gate, authfile, pushable))
      stub:reset()
      assert.same(before, list_repositories())
    end)
  end

  it("sends Retry-After, skopeo waits as told and continues", function()
    local authfile = bed:write_authfile(patient, "admin", "admin")
    push_steps(patient, to_basic("admin", "admin"), "patient/image")
    stub:reset()
    stub:plan { path = TOKEN_PATH, status = 429, headers = { { "Retry-After", "1" } } }
    local ok, output = inspect(patient, authfile, "patient/image")
    assert.is_true(ok, output)
    local requests, scopes = stub:requests(), bed:list_scopes()
    assert.same({ "repository:patient/image:pull", "repository:patient/image:pull" }, scopes)
    assert.is_true(requests[2].time - requests[1].time >= 1)
  end)

  it("works again in time, skopeo does not notice the failure", function()
    local authfile = bed:write_authfile(patient, "admin", "admin")
    plan_forever(TOKEN_PATH, { status = 500 })
    assert.is_false(push_image(patient, authfile, "failing/before"))
    stub:reset()
    local ok, output = push_image(patient, authfile, "failing/before")
    assert.is_true(ok, output)
  end)
end)

describe("the gateway's own token service", function()
  local gate

  setup(function() gate = bed.gates.bearer end)

  local function ask_token(authorization, method)
    return ask(gate, method or "GET", "/token?account=admin&client_id=docker&service=token-service", authorization)
  end

  it("returns an ID token for a user name and a password", function()
    local answer = ask_token(to_basic("admin", "admin"))
    assert.equal(200, answer.status)
    assert.equal("no-store", answer.headers["cache-control"])
    local given = cjson.decode(answer.body)
    assert.equal("admin", icptoken.decode(given.token).claims.sub)
    assert.equal(given.token, given.access_token)
    assert.is_true(given.expires_in > 43000 and given.expires_in <= 43199)
    assert.matches("^%d%d%d%d%-%d%d%-%d%dT%d%d:%d%d:%d%dZ$", given.issued_at)
    assert.equal(1, #stub:requests())
    assert.equal(LOGIN_PATH, stub:last().path)
  end)

  it("returns token_user its own ID token, and sends no request", function()
    local given = cjson.decode(ask_token(to_basic("id-token", stub.id_token)).body)
    assert.equal(stub.id_token, given.token)
    assert.is_true(given.expires_in > 0 and given.expires_in <= 43199)
    assert.equal(0, #stub:requests())
  end)

  for what, authorization in pairs { ["no credential"] = false, ["a wrong password"] = to_basic("admin", "wrong"),
    ["no base64"] = "Basic =", ["no colon"] = "Basic " .. (mime.b64 "admin"), ["an ID token"] = "Bearer abc" } do
    it("asks for Basic if there is " .. what, function()
      local answer = ask_token(authorization or nil)
      assert.equal(401, answer.status)
      assert.equal(('Basic realm="http://127.0.0.1:%d/token"'):format(gate.port), answer.headers["www-authenticate"])
    end)
  end

  it("refers clients that use POST, as containerd does first, to GET", function()
    local answer = ask_token(to_basic("admin", "admin"), "POST")
    assert.equal(405, answer.status)
    assert.equal("GET", answer.headers.allow)
  end)

  it("lets skopeo read nothing while the identity provider fails", function()
    local authfile = bed:write_authfile(gate, "admin", "admin")
    assert(push_image(gate, authfile, "bearer/guarded"))
    bed:forget()
    plan_forever(LOGIN_PATH, { status = 500 })
    assert.equal(502, ask_token(to_basic("admin", "admin")).status)
    assert.is_false(inspect(gate, authfile, "bearer/guarded"))
    bed:forget()
    assert.is_true(inspect(gate, authfile, "bearer/guarded"))
  end)
end)
