-- icptoken configure: docker's and podman's files, in which nothing changes but the intended entry.

local cjson = require "cjson"
local command = require "support.command"
local kills = require "support.kills"

local REGISTRY = "r.example"
local ENTRY = '"r.example": "icptoken"'

local bed

setup(function() bed = command.open() end)
teardown(function() bed:close() end)
before_each(function()
  bed:clear()
  bed:configure [[{"clusters":{"prod":{"host":"mycluster.icp"}},
    "registries":{"r.example":{"cluster":"prod","gateway_user":"u"}}}]]
end)

local DOCKER = ".docker/config.json"

local function configure(...)
  return bed:run { "configure", REGISTRY, "--for", "docker", ... }
end

-- Each: what it is, the text before, the text after.
local CORPUS = {
  { "an empty object", "{}", '{\n\t"credHelpers": {\n\t\t' .. ENTRY .. "\n\t}\n}" },
  { "an empty object with spaces", "{ }", '{\n\t"credHelpers": {\n\t\t' .. ENTRY .. "\n\t}\n}" },
  { "no text", "", '{\n\t"credHelpers": {\n\t\t' .. ENTRY .. "\n\t}\n}\n" },
  { "white space", " \n\t", '{\n\t"credHelpers": {\n\t\t' .. ENTRY .. "\n\t}\n}\n" },
  { "docker's own layout", '{\n\t"auths": {\n\t\t"a.example": {}\n\t}\n}',
    '{\n\t"auths": {\n\t\t"a.example": {}\n\t},\n\t"credHelpers": {\n\t\t' .. ENTRY .. "\n\t}\n}" },
  { "two spaces", '{\n  "a": 1\n}\n', '{\n  "a": 1,\n  "credHelpers": {\n    ' .. ENTRY .. "\n  }\n}\n" },
  { "four spaces", '{\n    "a": 1\n}\n', '{\n    "a": 1,\n    "credHelpers": {\n        ' .. ENTRY .. "\n    }\n}\n" },
  { "lines of Windows", '{\r\n  "a": 1\r\n}\r\n',
    '{\r\n  "a": 1,\r\n  "credHelpers": {\r\n    ' .. ENTRY .. "\r\n  }\r\n}\r\n" },
  { "one line", '{"a":1}', '{"a":1,"credHelpers":{"r.example":"icptoken"}}' },
  { "one line with spaces", '{ "a" : 1 }', '{ "a" : 1, "credHelpers" : {"r.example" : "icptoken"} }' },
  { "credHelpers without members", '{\n  "credHelpers": {}\n}', '{\n  "credHelpers": {\n    ' .. ENTRY .. "\n  }\n}" },
  { "credHelpers without members on one line", '{"credHelpers":{},"a":1}',
    '{"credHelpers":{"r.example":"icptoken"},"a":1}' },
  { "credHelpers of null", '{"credHelpers":null}', '{"credHelpers":{"r.example":"icptoken"}}' },
  { "another registry's helper", '{"credHelpers":{"gcr.io":"gcloud"}}',
    '{"credHelpers":{"gcr.io":"gcloud","r.example":"icptoken"}}' },
  { "another helper for the registry", '{"credHelpers":{"r.example":"pass","gcr.io":"gcloud"}}',
    '{"credHelpers":{"r.example":"icptoken","gcr.io":"gcloud"}}' },
  { "the helper that is set already", '{"credHelpers":{"r.example":"icptoken"}}',
    '{"credHelpers":{"r.example":"icptoken"}}' },
  { "big and odd numbers", '{"a":12345678901234567890,"b":1e400,"c":-0.0,"d":1.10}',
    '{"a":12345678901234567890,"b":1e400,"c":-0.0,"d":1.10,"credHelpers":{"r.example":"icptoken"}}' },
  { "duplicate members", '{"a":1,"a":2}', '{"a":1,"a":2,"credHelpers":{"r.example":"icptoken"}}' },
  { "credHelpers twice, of which the last counts", '{"credHelpers":{"r.example":"x"},"credHelpers":{}}',
    '{"credHelpers":{"r.example":"x"},"credHelpers":{"r.example":"icptoken"}}' },
  { "the registry twice, of which the last counts", '{"credHelpers":{"r.example":"x","r.example":"y"}}',
    '{"credHelpers":{"r.example":"x","r.example":"icptoken"}}' },
  { "credHelpers in other letters, which docker reads",
    '{"CREDHELPERS":{}}', '{"CREDHELPERS":{"r.example":"icptoken"}}' },
  { "credHelpers with escapes", '{"cred\\u0048elpers":{}}', '{"cred\\u0048elpers":{"r.example":"icptoken"}}' },
  { "UTF-8", '{"ключ":"värde 💾"}', '{"ключ":"värde 💾","credHelpers":{"r.example":"icptoken"}}' },
  { "bytes that are no UTF-8", '{"a":"\255\254"}', '{"a":"\255\254","credHelpers":{"r.example":"icptoken"}}' },
  { "escapes", '{"a":"\\"}{\\\\","\\u0000":"\\ud83d\\ude00"}',
    '{"a":"\\"}{\\\\","\\u0000":"\\ud83d\\ude00","credHelpers":{"r.example":"icptoken"}}' },
  { "names in an object that is not at the top", '{"a":{"credHelpers":{"r.example":"x"}}}',
    '{"a":{"credHelpers":{"r.example":"x"}},"credHelpers":{"r.example":"icptoken"}}' },
  { "members of every kind", '{"a":[1,[2,{"b":[]}]],"c":null,"d":true,"e":false,"f":""}',
    '{"a":[1,[2,{"b":[]}]],"c":null,"d":true,"e":false,"f":"","credHelpers":{"r.example":"icptoken"}}' },
  { "a stale password", '{"auths":{"r.example":{"auth":"dTpw"}}}',
    '{"auths":{},"credHelpers":{"r.example":"icptoken"}}' },
  { "a stale password among others",
    '{"auths":{"a":{"auth":"dTpw"},"r.example":{"auth":"dTpw"},"b":{"auth":"dTpw"}}}',
    '{"auths":{"a":{"auth":"dTpw"},"b":{"auth":"dTpw"}},"credHelpers":{"r.example":"icptoken"}}' },
  { "a stale password that comes first", '{"auths":{"r.example":{"auth":"dTpw"}, "b":{}}}',
    '{"auths":{"b":{}},"credHelpers":{"r.example":"icptoken"}}' },
  { "stale passwords under URLs",
    '{"auths":{"https://r.example":{"auth":"dTpw"},"https://r.example/v1/":{"auth":"dTpw"},'
    .. '"http://R.EXAMPLE/v2/":{"identitytoken":"x"},"x":{}}}',
    '{"auths":{"x":{}},"credHelpers":{"r.example":"icptoken"}}' },
  { "a stale registrytoken", '{"auths":{"r.example":{"registrytoken":"eyJ"}}}',
    '{"auths":{},"credHelpers":{"r.example":"icptoken"}}' },
  { "an entry of auths without a credential, which docker writes for helpers", '{"auths":{"r.example":{}}}',
    '{"auths":{"r.example":{}},"credHelpers":{"r.example":"icptoken"}}' },
  { "an entry with empty credentials", '{"auths":{"r.example":{"auth":"","email":"a@b"}}}',
    '{"auths":{"r.example":{"auth":"","email":"a@b"}},"credHelpers":{"r.example":"icptoken"}}' },
  { "a credential for one repository, which is somebody's choice", '{"auths":{"r.example/ns/app":{"auth":"dTpw"}}}',
    '{"auths":{"r.example/ns/app":{"auth":"dTpw"}},"credHelpers":{"r.example":"icptoken"}}' },
  { "other hosts that look alike", '{"auths":{"r.example.com":{"auth":"eA=="},"r.example:5000":{"auth":"eA=="}}}',
    '{"auths":{"r.example.com":{"auth":"eA=="},"r.example:5000":{"auth":"eA=="}},'
    .. '"credHelpers":{"r.example":"icptoken"}}' },
  { "1 MB", '{"a":"' .. ("x"):rep(500000) .. '","b":[' .. ("1,"):rep(250000) .. "1]}",
    '{"a":"' .. ("x"):rep(500000) .. '","b":[' .. ("1,"):rep(250000) .. '1],"credHelpers":{"r.example":"icptoken"}}' },
  { "many levels", '{"a":' .. ("["):rep(900) .. ("]"):rep(900) .. "}",
    '{"a":' .. ("["):rep(900) .. ("]"):rep(900) .. ',"credHelpers":{"r.example":"icptoken"}}' },
}

local REFUSED = { "[]", "null", "1", '"a"', "{", "}", '{"a"}', '{"a":}', '{"a":1,}', "{a:1}", "{'a':1}",
  '{"a":01}', '{"a":+1}',
  '{"a":.5}', '{"a":1.}', '{"a":NaN}', '{"a":tru}', '{"a":1}x', '{"a":"\n"}', '{"a":"\\x"}', '{"a":"\\u12"}', '{"a":"',
  "\239\187\191{}", "{}{}", "// comment\n{}", '{"a":1 /* b */}', '{"a" 1}', '{"a":1 "b":2}', '{"credHelpers":[]}',
  '{"credHelpers":"x"}', '{"a":' .. ("["):rep(2000) .. ("]"):rep(2000) .. "}", "auths:\n  a: b\n", "\0" }

describe("configure", function()
  assert(#CORPUS >= 30)

  for _, case in ipairs(CORPUS) do
    it("changes only the entry in " .. case[1], function()
      bed:write(DOCKER, case[2], "640")
      local status, out, err = configure()
      assert.equal(0, status, err)
      assert.equal(case[3], bed:read(DOCKER))
      assert.equal("640\n", command.shell(("stat -c %%a '%s'"):format(bed:path(DOCKER))))
      assert.matches(case[2] == case[3] and "unchanged" or "changed", out, 1, true)
      -- a second time changes nothing
      assert.equal(0, (configure()))
      assert.equal(case[3], bed:read(DOCKER))
      assert.equal("config.json\n", command.shell(("ls -A '%s'"):format(bed:path ".docker")))
    end)
  end

  for _, text in ipairs(REFUSED) do
    it(("does not change text that is not JSON: %.30s"):format(text:gsub("%c", "?")), function()
      bed:write(DOCKER, text)
      local status, _, err = configure()
      assert.equal(1, status)
      assert.matches("was not changed", err, 1, true)
      assert.matches(bed:path(DOCKER), err, 1, true)
      assert.not_matches("%.lua:", err)
      assert.equal(text, bed:read(DOCKER))
    end)
  end

  it("is undone by --remove, except for an empty object", function()
    local before = '{\n\t"auths": {\n\t\t"a.example": {}\n\t},\n\t"credHelpers": {\n\t\t"gcr.io": "gcloud"\n\t}\n}'
    bed:write(DOCKER, before)
    configure()
    assert.not_equal(before, bed:read(DOCKER))
    assert.equal(0, (configure "--remove"))
    assert.equal(before, bed:read(DOCKER))
    assert.is_nil(cjson.decode(bed:read ".config/icptoken/config.json").registries[REGISTRY])
  end)

  it("does not remove another helper", function()
    local text = '{"credHelpers":{"r.example":"pass"}}'
    bed:write(DOCKER, text)
    assert.equal(0, (configure "--remove"))
    assert.equal(text, bed:read(DOCKER))
  end)

  it("creates a file if there is none, which only the user can read", function()
    assert.equal(0, (configure()))
    assert.equal("icptoken", cjson.decode(bed:read(DOCKER)).credHelpers[REGISTRY])
    assert.equal("600\n", command.shell(("stat -c %%a '%s'"):format(bed:path(DOCKER))))
  end)

  it("follows symbolic links", function()
    bed:write("dotfiles/docker.json", '{"a":1}', "604")
    command.shell(("cd '%s' && mkdir .docker && ln -s ../dotfiles/docker.json .docker/link"):format(bed.home))
    command.shell(("cd '%s' && ln -s link .docker/config.json"):format(bed.home))
    assert.equal(0, (configure()))
    assert.equal("icptoken", cjson.decode(bed:read "dotfiles/docker.json").credHelpers[REGISTRY])
    assert.equal("604\n", command.shell(("stat -c %%a '%s'"):format(bed:path "dotfiles/docker.json")))
    assert.equal("link\n", command.shell(("readlink '%s'"):format(bed:path(DOCKER))))
    -- a link to a file that does not exist creates that file
    command.shell(("rm '%s'"):format(bed:path "dotfiles/docker.json"))
    assert.equal(0, (configure()))
    assert.is_string(bed:read "dotfiles/docker.json")
    command.shell(("cd '%s/.docker' && ln -sf config.json link"):format(bed.home))
    local status, _, err = configure()
    assert.equal(1, status)
    assert.not_matches("%.lua:", err)
  end)

  it("says so if the directory cannot be written to", function()
    if command.shell "id -u" == "0\n" then
      -- root can write everywhere except in such a file system
      local status, _, err = bed:run { "configure", REGISTRY, "--for", "docker",
        env = { DOCKER_CONFIG = "/proc/self" } }
      assert.equal(1, status)
      assert.matches("/proc/self", err, 1, true)
      return
    end
    bed:write(DOCKER, "{}")
    command.shell(("chmod 500 '%s'"):format(bed:path ".docker"))
    local status, _, err = configure()
    assert.equal(1, status)
    assert.matches(".docker", err, 1, true)
    assert.equal("{}", bed:read(DOCKER))
  end)

  it("writes podman's files, and all of them by default", function()
    local env = { XDG_RUNTIME_DIR = bed:path "run" }
    assert.equal(0, (bed:run { "configure", REGISTRY, "--for", "podman", env = env }))
    for _, path in ipairs { "run/containers/auth.json", ".config/containers/auth.json" } do
      assert.equal("icptoken", cjson.decode(bed:read(path)).credHelpers[REGISTRY])
    end
    assert.is_nil(bed:read(DOCKER))
    assert.equal(0, (bed:run { "configure", REGISTRY, env = env }))
    assert.is_string(bed:read(DOCKER))
    env.REGISTRY_AUTH_FILE, env.DOCKER_CONFIG = bed:path "own.json", bed:path "own"
    assert.equal(0, (bed:run { "configure", REGISTRY, env = env }))
    assert.is_string(bed:read "own.json")
    assert.is_string(bed:read "own/config.json")
  end)

  it("shows with --dry-run what would change, without secrets, and changes nothing", function()
    local text = '{\n  "auths": {\n    "r.example": {\n      "auth": "c2VjcmV0"\n    },\n    "a": {\n'
      .. '      "auth": "b3RoZXI="\n'
      .. '    }\n  },\n  "HttpHeaders": {"X": "hidden"}\n}\n'
    bed:write(DOCKER, text)
    local before = bed:read ".config/icptoken/config.json"
    local status, out = bed:run { "configure", REGISTRY, "--for", "docker", "--dry-run", "--gateway-user", "other" }
    assert.equal(0, status)
    assert.matches("\n+  \"credHelpers\": {", out, 1, true)
    assert.matches("\n-    \"r.example\": {", out, 1, true)
    assert.matches("+++ " .. bed:path(DOCKER), out, 1, true)
    for _, secret in ipairs { "c2VjcmV0", "b3RoZXI=", "hidden" } do assert.not_matches(secret, out, 1, true) end
    assert.equal(text, bed:read(DOCKER))
    assert.equal(before, bed:read ".config/icptoken/config.json")
  end)

  it("writes icptoken's own configuration", function()
    bed:clear()
    bed:write("ca.crt", "")
    local status, out, err = bed:run { "configure", "https://R.example:5000/", "--for", "docker", "--cluster", "prod",
      "--host", "mycluster.icp", "--port", "9443", "--cacert", bed:path "ca.crt", "--gateway-user", "id-token" }
    assert.equal(0, status, err)
    assert.matches("docker login", out, 1, true)
    local settings = cjson.decode(bed:read ".config/icptoken/config.json")
    assert.same({ host = "mycluster.icp", port = 9443, cacert = bed:path "ca.crt" }, settings.clusters.prod)
    assert.same({ cluster = "prod", gateway_user = "id-token" }, settings.registries["r.example:5000"])
    assert.equal(0, (bed:run { "configure", "mycluster.icp:8500", "--for", "docker" }))
    settings = cjson.decode(bed:read ".config/icptoken/config.json")
    assert.same({ cluster = "prod" }, settings.registries["mycluster.icp:8500"])
    assert.equal("icptoken", cjson.decode(bed:read(DOCKER)).credHelpers["mycluster.icp:8500"])
  end)

  it("says that a registry without the gateway needs another helper, too", function()
    bed:configure '{"clusters":{"prod":{"host":"mycluster.icp"}}}'
    local status, _, err = bed:run { "configure", "mycluster.icp:8500", "--for", "docker" }
    assert.equal(0, status)
    assert.matches("credential_store", err, 1, true)
  end)

  for _, name in ipairs { "", "a b", "https://", "a\27", "@", "-x/" } do
    it(("refuses the registry %q"):format(name):gsub("%c", "?"), function()
      local status, _, err = bed:run { "configure", "--for", "docker", "--", name }
      assert.equal(2, status)
      assert.not_matches("%.lua:", err)
      assert.is_nil(bed:read(DOCKER))
    end)
  end

  it("loses no entry if many processes run at once", function()
    bed:write(DOCKER, '{"a":1}')
    local processes = {}
    for i = 1, 20 do
      processes[i] = bed:start { "configure", ("r%d.example"):format(i), "--for", "docker", "--cluster", "prod" }
    end
    for i = 1, 20 do
      local status, _, err = bed:finish(processes[i])
      assert.equal(0, status, err)
    end
    local helpers = cjson.decode(bed:read(DOCKER)).credHelpers
    local registries = cjson.decode(bed:read ".config/icptoken/config.json").registries
    for i = 1, 20 do
      assert.equal("icptoken", helpers[("r%d.example"):format(i)])
      assert.is_table(registries[("r%d.example"):format(i)])
    end
  end)

  it("leaves the old file or the new one, of each, if it is killed at any system call #deep", function()
    local old, new = '{"a":1}', '{"a":1,"credHelpers":{"r.example":"icptoken"}}'
    local own = '{"clusters":{"prod":{"host":"a"}},"registries":{"r.example":{"cluster":"prod","gateway_user":"%s"}}}'
    local versions = { [DOCKER] = { old, new }, ["run/auth.json"] = { old, new },
      [".config/icptoken/config.json"] = { own:format "u", own:format "v" } }
    local seen = {}
    local function prepare()
      bed:clear()
      for path, texts in pairs(versions) do bed:write(path, texts[1]) end
    end
    local killed = kills.at_every_call({ words = bed:words("icptoken", "configure", REGISTRY, "--gateway-user", "v"),
      env = bed:environment { REGISTRY_AUTH_FILE = bed:path "run/auth.json" }, prepare = prepare },
      function(call, number)
        for path, texts in pairs(versions) do
          local text = bed:read(path)
          assert.is_true(text == texts[1] or text == texts[2], ("killed at %s number %d, %s has: %s"):format(call,
            number, path, tostring(text)))
          seen[path .. (text == texts[1] and " old" or " new")] = true
        end
      end)
    assert.is_true(killed > 200, "killed " .. killed .. " times")
    for path in pairs(versions) do assert.is_true(seen[path .. " old"] and seen[path .. " new"], path) end
  end)
end)
