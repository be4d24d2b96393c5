-- scripts/run-jobs with small jobs, in a separate tree that contains only the scripts of these jobs.

local files = require "support.files"
local scripts = require "support.scripts"
local testkit = require "testkit"

local tree

-- A run of specs: prints its first argument, if there is one, and exits with the second.
local SPECS = [[#!/bin/sh
[ -z "$1" ] || echo "$1"
exit "$2"
]]
-- Two jobs that finish only if they run at the same time: each creates a file and waits for the other's.
local MEET = "scripts/meet one two\nscripts/meet two one\n"
local MEET_SCRIPT = [[#!/bin/sh
touch "$1"
until [ -e "$2" ]; do sleep 0.05; done
]]
-- Records how many jobs of its kind run.
local COUNT_SCRIPT = [[#!/bin/sh
mkdir -p running
touch "running/$1"
set -- "$1" running/*
echo $(($# - 1)) >>most
rm "running/$1"
]]

local function write_script(name, content)
  files.write(tree .. "/scripts/" .. name, content)
  scripts.shell("chmod 755 " .. tree .. "/scripts/" .. name)
end

local function start_jobs(list, env)
  files.write(tree .. "/list", list)
  files.write(tree .. "/output", "")
  return scripts.start(tree .. "/output", { tree .. "/scripts/run-jobs", "part", stdin = tree .. "/list", env = env })
end

-- Returns the exit status and what was printed.
local function run_jobs(list, env)
  local status = scripts.finish(start_jobs(list, env))
  return status, files.read(tree .. "/output")
end

-- Checks that the last line and the file `total` agree.
local function assert_total(passed, failed, output)
  local total = ("%d passed, %d failed\n"):format(passed, failed)
  assert.equal(total, output:match "[^\n]*\n$", output)
  assert.equal(total, files.read(tree .. "/build/part/total"))
end

before_each(function()
  tree = scripts.shell "mktemp -d"
  scripts.shell(("mkdir %s/scripts; cp scripts/run-jobs %s/scripts/"):format(tree, tree))
  write_script("specs", SPECS)
  write_script("meet", MEET_SCRIPT)
  write_script("count", COUNT_SCRIPT)
end)

after_each(function()
  scripts.shell("rm -rf " .. tree)
end)

describe("run-jobs", function()
  it("adds up the counts of the jobs, and exits with 0 if nothing failed", function()
    local status, output = run_jobs [[
scripts/specs "lua5.4: 30 passed, 0 failed, 1 skipped" 0
scripts/specs "12 passed, 0 failed" 0
true
]]
    assert_total(43, 0, output)
    assert.equal(0, status)
  end)

  it("exits with another status if a spec failed", function()
    local status, output = run_jobs [[
scripts/specs "lua5.4: 30 passed, 0 failed, 1 skipped" 0
scripts/specs "luajit: 4 passed, 2 failed, 0 skipped" 1
]]
    assert_total(34, 2, output)
    assert.is_true(status > 0)
  end)

  it("takes the last counts of a job that has several", function()
    local _, output = run_jobs [[printf "1 passed, 5 failed\n8 passed, 0 failed\nbye\n"]]
    assert_total(8, 0, output)
  end)

  it("counts a run of specs without counts as a failure, whatever its exit status", function()
    for _, exit_status in ipairs { 0, 1 } do
      local status, output = run_jobs(("true\nscripts/specs '' %d\n"):format(exit_status))
      assert_total(1, 1, output)
      assert.is_true(status > 0)
    end
  end)

  it("counts a run that fails without a failed spec as a failure", function()
    local status, output = run_jobs 'scripts/specs "luajit: 9 passed, 0 failed, 0 skipped" 23\n'
    assert_total(9, 1, output)
    assert.is_true(status > 0)
  end)

  it("counts any other job by its exit status #deep", function()
    local _, output = run_jobs "true\nfalse\ntrue\nno-such-program\n"
    assert_total(2, 2, output)
  end)

  it("fails if it has nothing to run", function()
    local status, output = run_jobs ""
    assert_total(0, 0, output)
    assert.is_true(status > 0)
  end)

  it("runs a last command without a newline", function()
    local _, output = run_jobs "true\ntrue"
    assert_total(2, 0, output)
  end)

  it("prints the whole log of a job that failed; of others one line, and what was skipped", function()
    local _, output = run_jobs [[
printf "quiet\nskipped for a reason\n4 passed, 0 failed\n"
sh -c "echo first; echo second; exit 3"
]]
    assert.matches("\nFAILED  sh %-c [^\n]*exit status 3, [^\n]*\nfirst\nsecond\n", "\n" .. output)
    assert.matches("\nok      printf [^\n]* 4 passed [^\n]*\nskipped for a reason\n", "\n" .. output)
    assert.not_matches("\nquiet", output)
  end)

  it("names what failed once more before the total, and in a file", function()
    local _, output = run_jobs([[
printf "8 passed, 0 failed\n"
sh -c "echo FAILED a row; echo in a file; echo quiet; echo 3 passed, 1 failed; exit 1"
sh -c "echo one; echo two; exit 3"
]], { JOBS = "1" })
    local failures = files.read(tree .. "/build/part/failures")
    assert.matches("^FAILED  sh %-c [^\n]*\n  FAILED a row\n  in a file\n", failures)
    assert.matches("\nFAILED  sh %-c [^\n]*\n  one\n  two\n$", failures)
    assert.is_truthy(output:find("\n\n" .. failures .. "\n11 passed, 2 failed\n", 1, true), output)
    run_jobs "true\n"
    assert.is_nil(io.open(tree .. "/build/part/failures"))
  end)

  it("runs as many jobs at once as JOBS says #deep", function()
    for _, before in ipairs { "", ("true\n"):rep(10) } do
      scripts.shell(("rm -f %s/one %s/two"):format(tree, tree))
      local status, output = run_jobs(before .. MEET, { JOBS = "2" })
      assert.equal(0, status, output)
    end
  end)

  it("runs no more jobs at once than JOBS says #deep", function()
    local list = {}
    for number = 1, 12 do list[number] = "scripts/count " .. number end
    local _, output = run_jobs(table.concat(list, "\n"), { JOBS = "3" })
    assert_total(12, 0, output)
    for most in files.read(tree .. "/most"):gmatch "%d+" do assert.is_true(tonumber(most) <= 3, most) end
  end)

  it("starts them in the order given", function()
    run_jobs("sh -c 'echo 1 >>order'\nsh -c 'echo 2 >>order'\nsh -c 'echo 3 >>order'\n", { JOBS = "1" })
    assert.equal("1\n2\n3\n", files.read(tree .. "/order"))
  end)

  it("fails if a job is killed, and names it", function()
    local status, output = run_jobs "true\nsh -c 'echo its log; kill -KILL $$'\ntrue\n"
    assert_total(2, 1, output)
    assert.is_true(status > 0)
    assert.matches("\nFAILED  sh %-c 'echo its log; kill %-KILL %$%$' [^\n]*exit status 137[^\n]*\nits log\n",
      "\n" .. output)
  end)

  it("fails if a job is killed together with the shell that ran it, and names it", function()
    local status, output = run_jobs "true\nsh -c 'echo its log; kill -KILL $PPID'\ntrue\n"
    assert_total(2, 1, output)
    assert.is_true(status > 0)
    assert.matches("\nFAILED  sh %-c 'echo its log; kill %-KILL %$PPID' [^\n]*\nits log\n", "\n" .. output)
  end)

  it("keeps nothing of an earlier run #deep", function()
    run_jobs "false\nfalse\n"
    local status, output = run_jobs "true\n"
    assert_total(1, 0, output)
    assert.equal(0, status)
  end)
end)

describe("run-jobs that gets a signal #deep", function()
  for name, number in pairs { HUP = 1, INT = 2, TERM = 15 } do
    it("stops its jobs and the processes that they started, with " .. name, function()
      local job = [[bash -c 'exec 5>>held; flock --shared 5; (echo >>started; sleep 1000); true']]
      local pid = start_jobs(job .. "\n" .. job .. "\ntrue\n")
      scripts.await("the jobs", function()
        return scripts.exists(tree .. "/started") and files.read(tree .. "/started") == "\n\n"
      end)
      testkit.kill(pid, name)
      assert.equal(128 + number, scripts.finish(pid))
      assert.is_false(scripts.exists(tree .. "/build/part/total"))
      -- the lock is free if no process of a job is left
      assert.equal(0, scripts.run(tree .. "/output", { "flock", "--timeout", tostring(scripts.SECONDS), tree .. "/held",
        "true" }))
    end)
  end
end)
