-- scripts/setup on all kinds of systems: fakes replace the programs that say which packages are installed or available.

local files = require "support.files"
local scripts = require "support.scripts"
local testkit = require "testkit"

local SECONDS = scripts.SECONDS
local exists, run_shell = scripts.exists, scripts.shell
-- The programs of the system that setup may use, besides those that the fakes replace.
local TOOLS = "sh env cat grep sed awk tr printf chmod flock rm touch echo true sleep"

local ROW_FAKES = {
  id = "echo 0",
  ["dpkg-query"] = [[printf '%s\n' "$@" | grep -Fx -f $FAKES/installed | sed 's/^/ii /']],
  ["apt-cache"] = [[printf '%s\n' "$@" | grep -Fx -f $FAKES/available | sed 's/$/:\n  Candidate: 1.0/']],
  ["apt-get"] = [[echo "$1" >>$FAKES/calls
case $1 in
  update) cat $FAKES/newly >>$FAKES/available ;;
  install)
    for name; do case $name in -* | install) ;; *) echo "$name" >>$FAKES/got ;; esac; done
    touch $FAKES/installing
    while [ -e $FAKES/hold ]; do sleep 0.01; done ;;
esac]],
}

-- The packages that the targets need on a release that has the first name of each.
local ALL = [[gcc libc6-dev make pkg-config libcurl4-openssl-dev lua5.4 liblua5.4-dev lua-cjson luajit2 lua-http
  lua-luaossl lua-cqueues lua-socket openssl libluajit2-5.1-dev lua-busted lua5.1 liblua5.1-0-dev lua5.2
  liblua5.2-dev lua5.3 liblua5.3-dev lua5.5 liblua5.5-dev lua-argparse lua-dkjson lua-posix
  clang clang-tidy clang-format libclang-rt-14-dev
  cppcheck valgrind lua-check
  shellcheck libnginx-mod-http-lua lua-resty-lrucache nginx docker-registry skopeo curl ca-certificates procps git
  luarocks unzip util-linux locales containerd docker.io docker-cli docker-buildx podman buildah oras cosign
  crane golang-github-docker-docker-credential-helpers-dev golang-golang-x-sys-dev golang-go strace
  prometheus python3-prometheus-client chromium-headless-shell fonts-dejavu-core lua-curl lua-sec wrk redis-server
  valkey-server debootstrap debian-archive-keyring]]

local fakes, policy

local function write_list(name, words)
  files.write(fakes .. "/" .. name, (words:gsub("%s+", "\n") .. "\n"))
end

local function without(words, ...)
  local kept = " " .. words:gsub("%s+", " ") .. " "
  for _, word in ipairs { ... } do kept = kept:gsub(" " .. word:gsub("%p", "%%%0") .. " ", " ") end
  return kept
end

local function start_setup(target)
  return assert(testkit.spawn { "/bin/sh", "scripts/setup", target, stdin = "/dev/null", stdout = fakes .. "/output",
    stderr = fakes .. "/output", env = { PATH = fakes, FAKES = fakes, POLICY_RC_D = policy } })
end

-- Returns the exit status and what was printed.
local function run_setup(target)
  local how, status = testkit.waitpid(start_setup(target), SECONDS)
  assert.equal("exited", how)
  return status, files.read(fakes .. "/output")
end

local function list_got()
  local got = {}
  for name in files.read(fakes .. "/got"):gmatch "[^\n]+" do got[name] = true end
  return got
end

-- The answer of the policy to a package that would start its service: 0 permits it, 101 forbids it.
local function ask_policy()
  return tonumber(run_shell(policy .. " nginx start; echo $?"))
end

local function await(path)
  scripts.await(path, function() return exists(path) end)
end

-- Starts setup and returns its process id once apt-get is installing, which lasts until the file `hold` is removed.
local function start_and_hold()
  files.write(fakes .. "/hold", "")
  local pid = start_setup "demo"
  await(fakes .. "/installing")
  return pid
end

before_each(function()
  fakes = run_shell "mktemp -d"
  policy = fakes .. "/policy-rc.d"
  run_shell(("for tool in %s; do ln -s $(which $tool) %s/; done"):format(TOOLS, fakes))
  for name, script in pairs(ROW_FAKES) do
    files.write(fakes .. "/" .. name, "#!/bin/sh\n" .. script .. "\n")
    run_shell("chmod 755 " .. fakes .. "/" .. name)
  end
  for _, name in ipairs { "installed", "newly", "got", "calls" } do files.write(fakes .. "/" .. name, "") end
  write_list("available", ALL)
end)

after_each(function()
  run_shell("rm -rf " .. fakes)
end)

describe("the set-up #deep", function()
  it("installs the first name that the release has", function()
    write_list("available", ALL .. " luajit libluajit-5.1-dev libclang-rt-dev liblua5.1-dev")
    local status, output = run_setup "test"
    assert.equal(0, status, output)
    local got = list_got()
    for _, name in ipairs { "luajit2", "libluajit2-5.1-dev", "libclang-rt-14-dev", "liblua5.1-0-dev", "lua5.5" } do
      assert.is_true(got[name], name)
    end
    for _, name in ipairs { "luajit", "libluajit-5.1-dev", "libclang-rt-dev", "liblua5.1-dev" } do
      assert.is_nil(got[name], name)
    end
  end)

  it("installs the second name if the release lacks the first", function()
    write_list("available", without(ALL, "luajit2", "libluajit2-5.1-dev", "libclang-rt-14-dev")
      .. " luajit libluajit-5.1-dev libclang-rt-dev")
    local status, output = run_setup "test"
    assert.equal(0, status, output)
    local got = list_got()
    for _, name in ipairs { "luajit", "libluajit-5.1-dev", "libclang-rt-dev" } do assert.is_true(got[name], name) end
    assert.is_nil(got.luajit2)
  end)

  it("installs nothing if any of the names is installed", function()
    write_list("installed", "luajit")
    assert.equal(0, (run_setup "demo"))
    local got = list_got()
    assert.is_true(got.gcc)
    assert.is_nil(got.luajit)
    assert.is_nil(got.luajit2)
  end)

  it("prints nothing and calls nothing if everything is installed", function()
    write_list("installed", ALL)
    for _, target in ipairs { "demo", "demo-gateway", "test", "test-on", "bench" } do
      local status, output = run_setup(target)
      assert.same({ 0, "" }, { status, output })
    end
    assert.equal("", files.read(fakes .. "/calls"))
  end)

  it("says what the benchmark leaves out without lua-curl", function()
    write_list("available", without(ALL, "lua-curl"))
    local status, output = run_setup "bench"
    assert.equal(0, status, output)
    assert.matches("No package source has lua-curl, which make bench can do without. The benchmark skips", output, 1,
      true)
    assert.is_true(list_got().wrk)
  end)

  it("goes on without Lua 5.5, and says so", function()
    write_list("available", without(ALL, "lua5.5", "liblua5.5-dev"))
    local status, output = run_setup "test"
    assert.equal(0, status, output)
    assert.matches("No package source has lua5.5, which make test can do without. The specs run on the other runtimes",
      output, 1, true)
  end)

  it("names a package that is not available, the target that needs it and what works without it", function()
    write_list("available", without(ALL, "luajit2"))
    local status, output = run_setup "demo"
    assert.equal(1, status)
    assert.equal("No package source has luajit2 or luajit, which make demo needs. Without it make and make install "
      .. "work.\n", output)
    assert.equal("update\n", files.read(fakes .. "/calls"))
  end)

  it("checks again after an update of lists that are empty", function()
    write_list("newly", ALL)
    files.write(fakes .. "/available", "")
    local status, output = run_setup "demo"
    assert.equal(0, status, output)
    assert.is_true(list_got().gcc)
  end)

  it("prints the names of the packages if there is no apt-get, and stops", function()
    os.remove(fakes .. "/apt-get")
    for _, target in ipairs { "demo", "demo-gateway", "test", "bench" } do
      local status, output = run_setup(target)
      assert.equal(1, status)
      assert.matches("^missing: .-luajit", output)
      for _, line in ipairs { "dnf:  gcc make", "apk:  build%-base", "brew: pkg%-config", "for LuaJIT: http" } do
        assert.matches(line, output)
      end
    end
    assert.equal("", files.read(fakes .. "/calls"))
  end)

  it("succeeds there if the programs are installed", function()
    os.remove(fakes .. "/apt-get")
    for name in ("cc make pkg-config lua5.4 luajit openssl"):gmatch "%S+" do
      run_shell(("ln -sf $(command -v true) %s/%s"):format(fakes, name))
    end
    assert.same({ 0, "" }, { run_setup "demo" })
  end)
end)

describe("the architecture to set up for", function()
  it("must be one that the specs run on", function()
    for arch, problem in pairs { vax = ", not vax", compiler = ", not compiler", [""] = "" } do
      local status = scripts.run(fakes .. "/output", { "scripts/setup", "test-arch", arch,
        env = { PATH = fakes, FAKES = fakes } })
      assert.same({ 2, "make test-on: ARCH must be s390x, i386, arm64, armhf or ppc64el" .. problem .. "\n" },
        { status, files.read(fakes .. "/output") })
    end
    assert.equal("", files.read(fakes .. "/calls"))
  end)
end)

describe("the policy against starting services", function()
  it("is in force while packages are installed, and removed afterwards", function()
    local pid = start_and_hold()
    assert.equal(101, ask_policy())
    os.remove(fakes .. "/hold")
    assert.same({ "exited", 0 }, { testkit.waitpid(pid, SECONDS) })
    assert.is_false(exists(policy))
  end)

  it("is in force only until apt-get exits if setup is killed, whichever process gets its id later", function()
    local pid = start_and_hold()
    testkit.kill(pid, "KILL")
    assert.equal("killed", (testkit.waitpid(pid, SECONDS)))
    assert.equal(101, ask_policy())
    assert.not_matches(tostring(pid), files.read(policy), 1, true)
    os.remove(fakes .. "/hold")
    scripts.await("the end of the policy", function() return ask_policy() == 0 end)
  end)

  it("stays while another setup needs it", function()
    local first = start_and_hold()
    files.write(fakes .. "/wait", "")
    local other = assert(testkit.spawn { "flock", "--shared", policy, "sh", "-c",
      ("touch %s/locked; while [ -e %s/wait ]; do sleep 0.01; done"):format(fakes, fakes), stdin = "/dev/null" })
    await(fakes .. "/locked")
    os.remove(fakes .. "/hold")
    testkit.waitpid(first, SECONDS)
    assert.equal(101, ask_policy())
    os.remove(fakes .. "/wait")
    testkit.waitpid(other, SECONDS)
    assert.equal(0, ask_policy())
  end)

  it("does not replace a policy of the machine", function()
    local own = "#!/bin/sh\nexit 104\n"
    files.write(policy, own)
    assert.equal(0, (run_setup "demo"))
    assert.equal(own, files.read(policy))
  end)
end)
