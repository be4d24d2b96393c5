-- icptoken token, against the stub over HTTPS, a real docker-registry, skopeo and curl.

local cjson = require "cjson"
local command = require "support.command"
local icptoken = require "icptoken"
local registry_server = require "support.registry"

local stub, bed

setup(function() stub, bed = command.begin() end)
teardown(function() command.finish(stub, bed) end)
before_each(function()
  command.reset(stub, bed, ',"registries":{"mycluster.icp:8500":{"cluster":"prod"}}')
end)

local function run(...)
  return bed:run { "token", env = { ID_TOKEN = stub.id_token }, ... }
end

local function fetch(...)
  local status, out, err = run(...)
  assert.same({ 0, "" }, { status, err })
  return out
end

local function list_scopes()
  return stub:last().query.scope
end

describe("icptoken token", function()
  it("prints the token and a newline, nothing else #short", function()
    local out = fetch "default/app"
    assert.matches("^[%w_-]+%.[%w_-]+%.[%w_-]+\n$", out)
    local claims = icptoken.decode(out:sub(1, -2)).claims
    assert.equal("token-service", claims.aud)
    assert.same({ { type = "repository", name = "default/app", actions = { "pull" } } }, claims.access)
  end)

  for arguments, scopes in pairs {
    ["default/app"] = { "repository:default/app:pull" },
    ["default/app:1.0"] = { "repository:default/app:pull" },
    ["mycluster.icp:8500/default/app:1.0 --push"] = { "repository:default/app:pull,push" },
    ["MyCluster.icp:8500/default/app"] = { "repository:default/app:pull" },
    ["localhost/app"] = { "repository:app:pull" },
    ["a/b/c@sha256:" .. ("0"):rep(64)] = { "repository:a/b/c:pull" },
    ["a b --delete"] = { "repository:a:pull,delete,*", "repository:b:pull,delete,*" },
    ["a --push -m b --mount c:1"] = { "repository:a:pull,push", "repository:b:pull", "repository:c:pull" },
    ["--catalog"] = { "registry:catalog:*" },
    ["--scope repository:a:pull,push --scope repository:b:*"] = { "repository:a:pull,push", "repository:b:*" },
    ["a --catalog --scope repository(plugin):b:pull"] = { "repository:a:pull", "registry:catalog:*",
      "repository(plugin):b:pull" },
  } do
    it("requests the scopes of " .. arguments, function()
      local list = {}
      for word in arguments:gmatch "%S+" do list[#list + 1] = word end
      fetch((table.unpack or unpack)(list)) -- luacheck: ignore 143
      assert.same(scopes, list_scopes())
      assert.same({ "token-service" }, stub:last().query.service)
    end)
  end

  it("requests another service, or none", function()
    fetch("a", "--service", "other")
    assert.same({ "other" }, stub:last().query.service)
    fetch("a", "--no-service")
    assert.is_nil(stub:last().query.service)
    bed:configure(command.configuration(stub):gsub('"cacert"', '"service":"third","cacert"'))
    fetch "a"
    assert.same({ "third" }, stub:last().query.service)
    fetch("a", "--no-service")
    assert.is_nil(stub:last().query.service)
  end)

  it("writes JSON, a header and a config.json", function()
    local json = fetch("a", "--format", "json")
    local answer = cjson.decode(json)
    assert.is_string(icptoken.decode(answer.token).claims.iss)
    assert.equal(1800, answer.expires_in)
    assert.matches("^{%s*\"token\"", json)
    assert.not_matches("1800%.0", json)
    assert.matches("^Authorization: Bearer [%w_.-]+\n$", fetch("a", "--format", "header"))
    assert.matches("^Authorization: Bearer [%w_.-]+\n$", fetch("a", "-H"))
    local config = cjson.decode(fetch("a", "--format", "docker"))
    assert.is_string(config.auths["mycluster.icp:8500"].registrytoken)
    config = cjson.decode(fetch("other.example/a", "--format", "docker"))
    assert.is_string(config.auths["other.example"].registrytoken)
  end)

  it("writes to a file that only the user can read, in one step", function()
    local path = bed:path "out/token"
    bed:write("out/token", "old", "644")
    command.shell("ln '" .. path .. "' '" .. bed:path "link" .. "'")
    assert.equal("", fetch("a", "--output", path))
    assert.matches("^eyJ[%w_.-]+\n$", bed:read "out/token")
    assert.equal("600\n", command.shell("stat -c %a '" .. path .. "'"))
    assert.equal("old", bed:read "link")
    assert.equal("token\n", command.shell("ls '" .. bed:path "out" .. "'"))
    command.shell(("ln -sf '%s' '%s'"):format(path, bed:path "symbolic"))
    local before = bed:read "out/token"
    fetch("b", "-o", bed:path "symbolic")
    assert.not_equal(before, bed:read "out/token")
    assert.matches("^eyJ", fetch("a", "-o", "/dev/stdout"))
    local status, out, err = run("a", "-o", bed:path "missing/token")
    assert.same({ 1, "" }, { status, out })
    assert.matches("missing", err, 1, true)
  end)

  it("takes the ID token from a file, standard input, the environment, the configuration, in this order", function()
    local path = bed:write("id_token", " Bearer " .. stub.id_token .. "\n")
    local wrong = bed:write("wrong", "wrong")
    local function try(options)
      table.insert(options, 1, "token")
      local status, out, err = bed:run(options)
      assert.equal(0, status, err)
      assert.matches("^eyJ", out)
    end
    try { "--id-token-file", path, env = { ID_TOKEN = "wrong" } }
    try { "--id-token-file", path, stdin = "wrong" }
    try { "-", stdin = stub.id_token .. "\n", env = { ID_TOKEN = "wrong" } }
    try { "--id-token-file", "-", stdin = stub.id_token, env = { ID_TOKEN = "wrong" } }
    try { "-", stdin = "ID token:       " .. stub.id_token:gsub("^", ""), env = {} }
    try { env = { ICPTOKEN_ID_TOKEN_FILE = path, ID_TOKEN = "wrong" } }
    bed:configure(command.configuration(stub):gsub('"cacert"', '"id_token_file":"' .. wrong .. '","cacert"'))
    try { env = { ID_TOKEN = stub.id_token } }
    bed:configure(command.configuration(stub):gsub('"cacert"', '"id_token_file":"' .. path .. '","cacert"'))
    try { env = {} }
  end)

  it("says what to do if there is no credential, and if it is refused", function()
    local status, out, err = bed:run { "token", "a" }
    assert.same({ 1, "" }, { status, out })
    assert.matches("icptoken login --cluster prod", err, 1, true)
    status, out, err = bed:run { "token", "a", env = { ID_TOKEN = "abc.def.ghi" } }
    assert.same({ 1, "" }, { status, out })
    assert.matches("$ID_TOKEN", err, 1, true)
    status, out, err = bed:run { "token", "-" }
    assert.same({ 1, "" }, { status, out })
    assert.matches("standard input", err, 1, true)
  end)

  it("exits with 75 for transient failures, with 1 for permanent ones", function()
    stub:plan { status = 503, body = "{}", times = "forever" }
    assert.equal(75, (run("a", "--timeout", "100")))
    stub:reset()
    stub:plan { status = 403, body = "{}", times = "forever" }
    local status, out, err = run "a"
    assert.same({ 1, "" }, { status, out })
    assert.matches("403", err, 1, true)
  end)

  it("prints with -v what it does, without a secret", function()
    local status, out, err = run("a", "-v")
    assert.equal(0, status)
    assert.matches("^eyJ", out)
    for _, words in ipairs { "config.json", "localhost:" .. stub.port, "$ID_TOKEN", " ms" } do
      assert.matches(words, err, 1, true)
    end
    assert.not_matches("eyJ", err, 1, true)
  end)

  it("prints tokens that a registry accepts, for skopeo and for curl", function()
    local registry = registry_server.start { service = "token-service", certificate = stub.token_signing_cert,
      realm = "https://mycluster.icp:8443/token" }
    bed:write("image/placeholder", "")
    -- it needs luaossl, which not every runtime has
    command.shell(([[LUA_PATH='examples/nginx/?.lua;spec/?.lua;;' luajit -e 'require "image".write("%s", 1000)']])
      :format(bed:path "image"))
    local function skopeo(words)
      return command.shell(words:gsub("ADDRESS", registry.address) .. " 2>&1; echo status $?")
    end
    local push = bed:write("push", fetch("default/app", "--push"))
    local pull = bed:write("pull", fetch "default/app")
    local other = bed:write("other", fetch "default/other")
    local copied = skopeo(("skopeo copy --dest-tls-verify=false --dest-registry-token=\"$(cat %s)\" dir:%s "
      .. "docker://ADDRESS/default/app:1"):format(push, bed:path "image"))
    local read = skopeo(("skopeo inspect --tls-verify=false --registry-token=\"$(cat %s)\" "
      .. "docker://ADDRESS/default/app:1"):format(pull))
    local denied = skopeo(("skopeo inspect --tls-verify=false --registry-token=\"$(cat %s)\" "
      .. "docker://ADDRESS/default/app:1"):format(other))
    local header = bed:write("header", fetch("default/app", "-H"))
    local listed = skopeo(("curl -s -H @%s http://ADDRESS/v2/default/app/tags/list"):format(header))
    registry.stop()
    assert.matches("status 0\n$", copied)
    assert.matches("status 0\n$", read)
    assert.matches("status 1\n$", denied)
    assert.matches('"tags":["1"]', listed, 1, true)
  end)
end)
