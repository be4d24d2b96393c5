-- scripts/test-on with a root that contains little more than make and a shell, so that nothing is downloaded. Rows that
-- need root, or a kernel that permits root to unshare and mount, are skipped if they cannot run, and say so.
--
-- All runs take place in a mount namespace of this spec, which is removed with it, so none of their mounts stays on the
-- machine.

local files = require "support.files"
local scripts = require "support.scripts"
local testkit = require "testkit"

local is_root = scripts.shell "id -u" == "0"
local may_mount = is_root and scripts.shell "unshare --mount --pid --fork --kill-child true 2>&1 && echo yes" == "yes"

-- The programs that the commands of a run and the script itself need in the root.
local ROOT_PROGRAMS = "sh env make cat touch mkfifo"
-- COMMANDS=test counts specs, any other target does not. Each runs the file `steps` of the working tree.
local MAKEFILE = [[
test other:
	@sh ./steps $@
]]
-- Records that it has begun, and continues when a line is written into the pipe. Both files are in the clone.
local HOLD = "mkfifo go && touch started && read -r line <go\n"
-- An unshare that fails as with a kernel that forbids namespaces.
local NO_UNSHARE = "#!/bin/sh\necho 'unshare: unshare failed: Operation not permitted' >&2\nexit 1\n"
-- tiny_root: created once. dir: a new one for each row. machine: the process that holds the mount namespace.
-- runs: those that were started, each with its process id and the file with its output.
local tiny_root, dir, tree, roots, machine, runs

local function write_program(name, content)
  files.write(dir .. "/bin/" .. name, content)
  scripts.shell(("chmod 755 '%s/bin/%s'"):format(dir, name))
end

local function make_tree()
  scripts.shell(([[
    mkdir -p '%s/scripts' '%s/bin'
    cp scripts/test-on '%s/scripts/'
    chmod 755 '%s'
    cd '%s' && mkdir build && touch build/ignored deleted && echo build >.gitignore]])
    :format(tree, dir, tree, dir, tree))
  files.write(tree .. "/Makefile", MAKEFILE)
  scripts.shell(([[cd '%s' && git init -q . && git add -A &&
    git -c user.name=spec -c user.email=spec@localhost commit -qm tree && rm deleted]]):format(tree))
  files.write(tree .. "/steps", "echo '7 passed, 0 failed'\n")
end

-- Copies programs and the libraries that they need to the same paths in the root.
local function make_root()
  tiny_root = scripts.shell "mktemp -d"
  scripts.shell(([[
    root='%s'
    mkdir -p "$root/proc" "$root/sys" "$root/dev" "$root/root" "$root/tmp" "$root/etc/apt/apt.conf.d" \
      "$root/var/cache/apt/archives" "$root/bin"
    for program in %s; do
      file=$(command -v $program)
      cp -L "$file" "$root/bin/"
      for library in $(ldd "$file" | grep -o '/[^ )]*'); do
        mkdir -p "$root${library%%/*}"
        cp -L -n "$library" "$root$library"
      done
    done 2>/dev/null]]):format(tiny_root, ROOT_PROGRAMS))
end

local function list_mounts()
  local points = {}
  for point in files.read(("/proc/%d/mountinfo"):format(machine)):gmatch "%S+ %S+ %S+ %S+ (%S+)[^\n]*\n" do
    if point:find(dir, 1, true) == 1 then points[#points + 1] = point end
  end
  return table.concat(points, "\n")
end

-- Starts a run in the namespace of this spec. Returns its process id and the file with its output.
local function start(env)
  env.ROOTS = env.ROOTS or roots
  env.COMMANDS = env.COMMANDS or "test"
  env.PATH = dir .. "/bin:" .. os.getenv "PATH"
  local output = ("%s/output-%d"):format(dir, #runs + 1)
  files.write(output, "")
  local pid = scripts.start(output, { "nsenter", "--target", tostring(machine), "--mount", "--root",
    tree .. "/scripts/test-on", "trixie", env = env })
  runs[#runs + 1] = { pid = pid, output = output }
  return pid, output
end

local function run(env)
  local pid, output = start(env)
  return scripts.finish(pid), files.read(output)
end

-- The clones of the runs, once all runs that were started wait.
local function await_holding()
  return scripts.await("the commands", function()
    for _, one in ipairs(runs) do
      assert.equal("running", (testkit.waitpid(one.pid, 0)), files.read(one.output))
    end
    local clones = scripts.shell(("ls -d '%s'/run.*/root/root/icptoken/started 2>/dev/null"):format(roots))
    local found = {}
    for clone in clones:gmatch "([^\n]+)/started" do found[#found + 1] = clone end
    return #found == #runs and found
  end)
end

local function list_runs()
  return scripts.shell(("ls -d '%s'/run.*/ 2>/dev/null"):format(roots))
end

-- The processes whose root, or one of whose open files, is below the directory of this row.
local function list_processes()
  return scripts.shell(("find /proc/[0-9]*/root /proc/[0-9]*/fd -lname '%s/*run.*' 2>/dev/null"):format(dir))
end

local function assert_clean()
  assert.equal("", list_mounts())
  assert.equal("", list_processes())
  assert.equal("", list_runs())
end

local function as_root(description, body)
  it(description, function()
    if not is_root then return pending "needs root" end
    if not may_mount then return pending "needs a root that may unshare and mount" end
    machine = assert(testkit.spawn { "unshare", "--mount", "sh", "-c",
      ("touch '%s/ready'; exec sleep infinity"):format(dir), stdin = "/dev/null" })
    scripts.await("the namespace", function() return scripts.exists(dir .. "/ready") end)
    if not tiny_root then make_root() end
    scripts.shell(("mkdir '%s' && cp -a '%s' '%s/trixie'"):format(roots, tiny_root, roots))
    body()
  end)
end

teardown(function()
  if tiny_root then scripts.shell("rm -rf " .. tiny_root) end
end)

before_each(function()
  dir = scripts.shell "mktemp -d"
  tree, roots, machine, runs = dir .. "/tree", dir .. "/the roots", nil, {}
  make_tree()
end)

after_each(function()
  if machine then
    testkit.kill(machine, "KILL")
    testkit.waitpid(machine)
  end
  scripts.shell("rm -rf --one-file-system " .. dir)
end)

describe("test-on #deep", function()
  it("refuses an unknown release, with status 2", function()
    local expected = "make test-on: RELEASE must be bookworm, trixie, forky or sid"
    for _, release in ipairs { "duke", "trixie sid", "../sid", "" } do
      local problem = release == "" and "" or ", not " .. release
      local status, output = scripts.run(dir .. "/output", { tree .. "/scripts/test-on", release,
        env = { ROOTS = roots } })
      assert.same({ 2, expected .. problem .. "\n" }, { status, output })
    end
    assert.is_false(scripts.exists(roots))
  end)

  it("says that it needs root", function()
    local program = { tree .. "/scripts/test-on", "trixie", env = { ROOTS = roots } }
    if is_root then
      program = { "setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", unpack(program) }
      program.env = { ROOTS = roots }
    end
    local status, output = scripts.run(dir .. "/output", program)
    assert.equal(1, status)
    assert.matches("^make test%-on: this needs root, [^\n]*\n$", output)
    assert.is_false(scripts.exists(roots))
  end)
end)

describe("a run #deep", function()
  as_root("works on a copy of the root and a clone of the tree, and adds up what the commands counted", function()
    files.write(tree .. "/steps", [[
[ "$1" = test ] || exit 0
echo "deleted: $(cat deleted 2>/dev/null && echo there), ignored: $(cat build/ignored 2>/dev/null && echo there)"
cat /proc/self/mountinfo
touch /root/was-here
echo '7 passed, 0 failed'
]])
    local status, output = run { COMMANDS = "other test" }
    assert.equal(0, status, output)
    assert.matches("\ndeleted: , ignored: \n", output, 1, true)
    for _, path in ipairs { "/proc", "/sys", "/dev", "/var/cache/apt/archives" } do
      assert.matches("\n%d+ %d+ [%d:]+ [^ ]+ " .. path .. " ", output)
    end
    assert.matches("\ntrixie: make other: 1 passed, 0 failed, %d+ s\ntrixie: make test: 7 passed, 0 failed, %d+ s\n"
      .. "8 passed, 0 failed\n$", output)
    assert.equal("8 passed, 0 failed\n", files.read(tree .. "/build/test-on-trixie/total"))
    assert.matches("7 passed, 0 failed\n$", files.read(tree .. "/build/test-on-trixie/test.log"))
    assert.is_false(scripts.exists(roots .. "/trixie/root/was-here"))
    assert_clean()
  end)

  as_root("fails if a command fails, whatever it counted", function()
    files.write(tree .. "/steps", "[ $1 = other ] || echo '7 passed, 0 failed'\nexit 1\n")
    local status, output = run { COMMANDS = "other test" }
    assert.equal(1, status, output)
    assert.matches("\ntrixie: make other: 0 passed, 1 failed, %d+ s\ntrixie: make test: 7 passed, 1 failed, %d+ s\n"
      .. "7 passed, 2 failed\n$", output)
    assert.equal("7 passed, 2 failed\n", files.read(tree .. "/build/test-on-trixie/total"))
    assert_clean()
  end)

  as_root("fails in a root that is no root #deep", function()
    scripts.shell(("rm -rf '%s/trixie/sys'"):format(roots))
    local status, output = run {}
    assert.is_true(status > 0)
    assert.matches("make test-on: cannot mount /sys\n", output, 1, true)
    assert_clean()
  end)

  as_root("does not disturb another one of the same release in the same tree", function()
    files.write(tree .. "/steps", "echo '7 passed, 0 failed'\n" .. HOLD)
    local first, first_output = start {}
    local first_clone = await_holding()[1]
    files.write(tree .. "/steps", "echo '5 passed, 0 failed'\n" .. HOLD)
    local second, second_output = start {}
    for _, clone in ipairs(await_holding()) do
      if clone ~= first_clone then files.write(clone .. "/go", "\n") end
    end
    assert.equal(0, scripts.finish(second), files.read(second_output))
    assert.equal("running", (testkit.waitpid(first, 0)))
    files.write(first_clone .. "/go", "\n")
    assert.equal(0, scripts.finish(first), files.read(first_output))
    assert.matches("\n7 passed, 0 failed\n$", files.read(first_output))
    assert.matches("\n5 passed, 0 failed\n$", files.read(second_output))
    assert.equal("7 passed, 0 failed\n", files.read(tree .. "/build/test-on-trixie/total"))
    assert_clean()
  end)
end)

describe("the root of a release #deep", function()
  -- It copies an existing root.
  local function install_debootstrap(more)
    scripts.shell(("mv '%s/trixie' '%s/source'"):format(roots, dir))
    write_program("debootstrap", ([[#!/bin/sh
for argument; do case $argument in */trixie.new) new=$argument ;; esac; done
echo call >>'%s/calls'
%s
cp -a '%s/source' "$new"
]]):format(dir, more or "", dir))
  end

  local function count_calls()
    return select(2, files.read(dir .. "/calls"):gsub("call", ""))
  end

  as_root("is made once, also for two runs at once, and again with FRESH=1", function()
    install_debootstrap(("until [ -e '%s/go' ]; do sleep 0.05; done"):format(dir))
    local first, first_output = start {}
    scripts.await("debootstrap", function() return scripts.exists(dir .. "/calls") end)
    local second, second_output = start {}
    scripts.await("the second run", function() return select(2, list_runs():gsub("run%.", "")) == 2 end)
    files.write(dir .. "/go", "")
    assert.equal(0, scripts.finish(first), files.read(first_output))
    assert.equal(0, scripts.finish(second), files.read(second_output))
    assert.equal(1, count_calls())
    assert.equal(0, (run { FRESH = "1" }))
    assert.equal(2, count_calls())
    assert_clean()
  end)

  as_root("is not kept if it could not be made", function()
    install_debootstrap "echo 'E: no such mirror'; mkdir -p \"$new/etc\"; exit 1"
    local status, output = run {}
    assert.equal(1, status)
    assert.matches("\nE: no such mirror\nmake test%-on: debootstrap cannot make a root of trixie\n", output)
    assert.is_false(scripts.exists(roots .. "/trixie"))
    assert_clean()
  end)

  as_root("is made again after a run that was killed while it was made", function()
    install_debootstrap(([[mkdir "$new"
      until [ -e '%s/go' ]; do sleep 0.05; done
      rmdir "$new"]]):format(dir))
    local pid = start {}
    scripts.await("debootstrap", function() return scripts.exists(dir .. "/calls") end)
    testkit.kill(pid, "TERM")
    assert.equal(143, scripts.finish(pid))
    assert_clean()
    files.write(dir .. "/go", "")
    assert.equal(0, (run {}))
    assert.equal(2, count_calls())
    assert_clean()
  end)
end)

describe("a run that gets a signal #deep", function()
  local SIGNALS = { HUP = 1, INT = 2, TERM = 15 }

  for name, number in pairs(SIGNALS) do
    local tag = name == "TERM" and "" or " #deep"
    as_root("leaves no mount, process or directory, with " .. name .. tag, function()
      files.write(tree .. "/steps", "cat /proc/self/mountinfo\n" .. HOLD)
      local pid, output = start {}
      await_holding()
      assert.matches(" /sys ", files.read(output))
      assert.equal("", list_mounts())
      testkit.kill(pid, name)
      assert.equal(128 + number, scripts.finish(pid))
      assert_clean()
    end)

    as_root("leaves none where there are no namespaces, with " .. name .. tag, function()
      write_program("unshare", NO_UNSHARE)
      files.write(tree .. "/steps", HOLD)
      local pid, output = start { ROOTS = "../the roots" }
      await_holding()
      assert.matches("/root/sys", list_mounts(), 1, true)
      testkit.kill(pid, name)
      assert.equal(128 + number, scripts.finish(pid), files.read(output))
      assert_clean()
    end)
  end

  as_root("leaves none where there are no namespaces, while the root is copied #deep", function()
    write_program("unshare", NO_UNSHARE)
    write_program("cp", ("#!/bin/sh\ntouch '%s/copying'\nsleep 1000\n"):format(dir))
    local pid = start {}
    scripts.await("the copy", function() return scripts.exists(dir .. "/copying") end)
    testkit.kill(pid, "TERM")
    assert.equal(143, scripts.finish(pid))
    assert_clean()
  end)

  as_root("leaves only a directory with KILL, which the next run removes", function()
    files.write(tree .. "/steps", HOLD)
    local pid = start {}
    await_holding()
    testkit.kill(pid, "KILL")
    assert.equal("killed", (testkit.waitpid(pid, scripts.SECONDS)))
    scripts.await("the end of its processes", function() return list_processes() == "" end)
    assert.equal("", list_mounts())
    assert.matches("run%.", list_runs())
    files.write(tree .. "/steps", "echo '7 passed, 0 failed'\n")
    assert.equal(0, (run {}))
    assert_clean()
  end)

  as_root("leaves mounts with KILL where there are no namespaces, which the next run removes #deep", function()
    write_program("unshare", NO_UNSHARE)
    files.write(tree .. "/steps", HOLD)
    local pid = start {}
    local clone = await_holding()[1]
    testkit.kill(pid, "KILL")
    testkit.waitpid(pid)
    files.write(clone .. "/go", "\n")
    scripts.await("the end of its processes", function() return list_processes() == "" end)
    assert.matches("/root/sys", list_mounts(), 1, true)
    files.write(tree .. "/steps", "echo '7 passed, 0 failed'\n")
    assert.equal(0, (run {}))
    assert_clean()
  end)
end)
