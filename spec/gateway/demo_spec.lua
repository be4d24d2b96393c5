-- The gateway's demos do what they print, and leave nothing behind however they end.

local ffi = require "ffi"
local files = require "support.files"
local interpreter = require "support.interpreter"
local nginx = require "support.nginx"
local shell = require "support.shell"
local stub_client = require "stub.client"
local testkit = require "testkit"

ffi.cdef [[int icptoken_prctl(int, unsigned long, unsigned long, unsigned long, unsigned long) __asm__("prctl");]]

local PR_SET_CHILD_SUBREAPER = 36
local DEMO = "examples/nginx/demo.lua"
local FLEET_DEMO = "examples/nginx/fleet.lua"
local DEMO_SECONDS = 300
local JWT = "eyJ[%w_-]+%.[%w_-]+%.[%w_-]+"

local ROW_FAKES = { sleeping = [[exec sleep 600]], refusing = [[echo "that is not to be"; exit 3]] }

-- All files of the demo are below `place`; programs in `fakes` replace real ones.
local place, fakes, known

local run_shell = shell.run

-- A process whose parent exits becomes a child of this one, so that every process that still runs is found.
local function adopt_orphans(is_on)
  assert(ffi.C.icptoken_prctl(PR_SET_CHILD_SUBREAPER, is_on and 1 or 0, 0, 0, 0) == 0)
end

local function list_children()
  local pids = {}
  for pid in run_shell("exec pgrep -P " .. testkit.getpid()):gmatch "%d+" do pids[tonumber(pid)] = true end
  return pids
end

-- The processes of the demo that still run.
local function list_strays()
  local strays = {}
  for pid in pairs(list_children()) do
    if not known[pid] and testkit.waitpid(pid, 0) == "running" then strays[#strays + 1] = pid end
  end
  return strays
end

local function assert_nothing_left()
  assert.same({}, list_strays())
  assert.equal("", run_shell("find " .. place .. " -mindepth 1"))
end

local function make_environment()
  return { TMPDIR = place, PATH = fakes .. ":" .. os.getenv "PATH" }
end

local function start_demo(script)
  return interpreter.start { script = script or DEMO, env = make_environment() }
end

-- Returns its exit status and what it printed.
local function run_demo(script)
  local how, status, output = start_demo(script).wait(DEMO_SECONDS)
  assert.equal("exited", how, output)
  return status, output
end

local function put_fake(name, script)
  local path = fakes .. "/" .. name
  files.write(path, "#!/bin/sh\n" .. script .. "\n")
  run_shell("chmod 755 " .. path)
end

local function await(what, condition)
  local deadline = testkit.monotonic() + DEMO_SECONDS
  while not condition() do
    if testkit.monotonic() > deadline then error("timed out while waiting until " .. what, 2) end
    testkit.sleep(0.01)
  end
end

-- Starts the demo with a program that does not exit, and returns the child once the program runs.
local function start_and_hold(program, script)
  put_fake(program, ("echo >%s/reached; %s"):format(fakes, ROW_FAKES.sleeping))
  local child = start_demo(script)
  await(program .. " runs", function()
    local file = io.open(fakes .. "/reached")
    if file then file:close() end
    return file
  end)
  return child
end

setup(function() adopt_orphans(true) end)
teardown(function() adopt_orphans(false) end)

before_each(function()
  known = list_children()
  place, fakes = run_shell "mktemp -d":gsub("\n", ""), run_shell "mktemp -d":gsub("\n", "")
end)

after_each(function()
  repeat
    local strays = list_strays()
    for _, pid in ipairs(strays) do
      testkit.kill(pid, "KILL")
      testkit.waitpid(pid)
    end
  until #strays == 0
  run_shell(("rm -rf %s %s"):format(place, fakes))
end)

describe("the nginx.conf that users copy", function()
  it("prints no warning", function()
    local stub = stub_client.start()
    local text = files.read "examples/nginx/nginx.conf"
    for _, change in ipairs {
      { "modules/", nginx.MODULES .. "/" }, { "user www-data;", "" }, { "/run/nginx.pid", place .. "/nginx.pid" },
      { "/var/log/nginx/", place .. "/" }, { "http {", ("http { client_body_temp_path %s/1; proxy_temp_path %s/2; "
        .. "fastcgi_temp_path %s/3; uwsgi_temp_path %s/4; scgi_temp_path %s/5;"):format(place, place, place, place,
        place) },
      { "/etc/icp/ca.crt", stub.ca }, { "/etc/icp/gateway.crt", stub.server_cert },
      { "/etc/icp/gateway.key", stub.server_key }, { "https://mycluster.icp:8500", "https://127.0.0.1:8500" },
    } do
      text = text:gsub(change[1]:gsub("%p", "%%%0"), (change[2]:gsub("%%", "%%%%")))
    end
    files.write(place .. "/nginx.conf", text)
    local output = run_shell(("nginx -t -p %s -c %s/nginx.conf -e stderr 2>&1"):format(place, place))
    stub:stop()
    run_shell(("rm -rf %s/*"):format(place))
    assert.matches("test is successful", output, 1, true)
    assert.is_nil(output:find("[warn]", 1, true), output)
  end)
end)

describe("the demo of a fleet", function()
  it("saves token requests, and loses no pull if a gateway and Redis are killed #deep", function()
    local status, output = run_demo(FLEET_DEMO)
    assert.equal(0, status, output)
    local without, with = output:match "the cluster saw (%d+) token requests.*the cluster saw (%d+) token requests.*3%."
    assert.is_true(tonumber(with) < tonumber(without), output)
    local _, acts = output:gsub("1500 of 1500 pulls worked", "")
    assert.equal(3, acts, output)
    assert.matches("Every pull worked.", output, 1, true)
    assert_nothing_left()
  end)

  it("stops cleanly on SIGTERM #deep", function()
    local child = start_and_hold("redis-server", FLEET_DEMO)
    testkit.kill(child.pid, "TERM")
    local how, status, output = child.wait(DEMO_SECONDS)
    assert.same({ "exited", 1 }, { how, status }, output)
    assert.matches("The demo failed: interrupted", output, 1, true)
    assert_nothing_left()
  end)
end)

describe("the gateway's demo", function()
  it("pushes, lists and pulls an image through the nginx.conf that users copy", function()
    local status, output = run_demo()
    assert.equal(0, status, output)
    assert.matches("http/%S+ 401 .-\n.*www%-authenticate: basic realm=.-\n", output:lower())
    assert.matches("docker%-distribution%-api%-version: registry/2%.0", output:lower())
    assert.matches("$ skopeo .- dir:image docker://localhost:%d+/demo/hello:1\n", output)
    assert.matches('{"repositories":["demo/hello"]}', output, 1, true)
    assert.matches("$ skopeo .- docker://localhost:%d+/demo/hello:1 dir:back\n", output)
    assert.matches("the same, byte for byte", output, 1, true)
    assert.matches('icptoken_requests_total{[^}]*result="cached"} [1-9]', output)
    assert.matches('icptoken_fetches_total{[^}]*code="ok"} [1-9]', output)
    assert.matches("nothing is left%.\n$", output)
    assert_nothing_left()
    -- and prints no credential
    assert.not_matches(JWT, output)
    assert.not_matches("YWRtaW46YWRtaW4=", output, 1, true)
    assert.not_matches("admin", output)
  end)

  for _, program in ipairs { "docker-registry", "nginx", "curl", "skopeo" } do
    it("says that " .. program .. " failed, and why", function()
      put_fake(program, ROW_FAKES.refusing)
      local status, output = run_demo()
      assert.equal(1, status, output)
      assert.matches("The demo failed: " .. program:gsub("%p", "%%%0") .. " ", output)
      assert.matches("that is not to be", output, 1, true)
      assert.not_matches("nothing is left", output, 1, true)
      assert_nothing_left()
    end)
  end

  it("names programs that are not installed", function()
    run_shell(("ln -s $(command -v luajit) %s/luajit"):format(fakes))
    local _, status, output = interpreter.run { script = DEMO, env = { TMPDIR = place, PATH = fakes } }
    assert.equal(1, status, output)
    assert.matches("not installed: curl, docker-registry, gzip, skopeo, tar", output, 1, true)
    assert_nothing_left()
  end)

  it("fails if a pulled image differs from the pushed one", function()
    local real = run_shell "command -v skopeo":gsub("\n", "")
    put_fake("skopeo", real .. ' "$@" || exit\nfor last in "$@"; do :; done\n'
      .. 'case $last in dir:*) echo >>"${last#dir:}/manifest.json" ;; esac')
    local status, output = run_demo()
    assert.equal(1, status, output)
    assert.matches("what came back is not what was pushed", output, 1, true)
    assert_nothing_left()
  end)

  it("fails if nginx.conf lacks a text that it replaces", function()
    for _, name in ipairs { "demo.lua", "files.lua", "image.lua", "process.lua", "story.lua" } do
      files.write(fakes .. "/" .. name, files.read("examples/nginx/" .. name))
    end
    files.write(fakes .. "/nginx.conf", (files.read "examples/nginx/nginx.conf":gsub("8500", "8501")))
    local status, output = run_demo(fakes .. "/demo.lua")
    assert.equal(1, status, output)
    assert.matches("replaces 'proxy_pass https://mycluster.icp:8500;' in nginx.conf, but it is not there", output, 1,
      true)
    assert_nothing_left()
  end)

  for i, program in ipairs { "docker-registry", "curl", "skopeo" } do
    for k, signal in ipairs { "INT", "TERM", "HUP" } do
      local tag = i == k and "" or " #deep"
      it(("stops cleanly on SIG%s while it waits for %s%s"):format(signal, program, tag), function()
        local child = start_and_hold(program)
        testkit.kill(child.pid, signal)
        local how, status, output = child.wait(DEMO_SECONDS)
        assert.same({ "exited", 1 }, { how, status }, output)
        assert.matches("The demo failed: interrupted", output, 1, true)
        assert_nothing_left()
      end)
    end
  end

  it("leaves no process if it is killed", function()
    local child = start_and_hold "skopeo"
    testkit.kill(child.pid, "KILL")
    assert.equal("killed", (child.wait(DEMO_SECONDS)))
    await("all have ended", function() return #list_strays() == 0 end)
  end)

  it("stops cleanly if the reader of its output exits", function()
    local told = run_shell(("export TMPDIR=%s; ((%s) 2>&3; echo $? >&3) 3>%s | head -n 1"):format(place,
      interpreter.command(DEMO), fakes .. "/end"))
    assert.matches("^The fake ICP:[^\n]*\n$", told)
    assert.matches("interrupted %(.*\n1\n$", files.read(fakes .. "/end"))
    assert_nothing_left()
  end)
end)
