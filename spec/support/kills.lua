-- Kills a program at each of its system calls in turn, with strace: https://strace.io

local files = require "support.files"
local testkit = require "testkit"

local kills = {}

-- For a program that hangs, not for one that is slow.
local HANG_SECONDS = 300

-- Runs the command under strace. Returns whether it came to its end.
local function trace(command, ...)
  local words = { "strace", "-f", ... }
  for _, word in ipairs(command.words) do words[#words + 1] = word end
  words.env, words.stdin, words.stdout, words.stderr = command.env, command.stdin or "/dev/null", "/dev/null",
    "/dev/null"
  command.prepare()
  local how, status = testkit.waitpid(assert(testkit.spawn(words)), HANG_SECONDS)
  return how == "exited" and status == 0
end

-- How often the command makes each system call: { openat = 87, … }.
local function count_calls(command)
  local log, counts = os.tmpname(), {}
  assert(trace(command, "-o", log), "the program fails under strace")
  for line in files.read(log):gmatch "[^\n]+" do
    local call = line:match "^%d*%s*([%a_][%w_]*)%("
    if call then counts[call] = (counts[call] or 0) + 1 end
  end
  os.remove(log)
  -- that one is over when strace begins to kill
  counts.execve = nil
  return counts
end

--- Runs a command once for each of its system calls, at which it is killed. command: `words`, `env`, `stdin` (a path),
-- `prepare` (a function that is called before each run). check(call, number) is called after each. Returns how often it
-- was killed. That is not quite as often as it is run: how often it requests memory, say, differs from run to run.
function kills.at_every_call(command, check)
  local killed = 0
  for call, count in pairs(count_calls(command)) do
    for number = 1, count do
      local is_done = trace(command, "-o", "/dev/null", "-e", ("inject=%s:signal=KILL:when=%d"):format(call, number))
      check(call, number)
      killed = killed + (is_done and 0 or 1)
    end
  end
  return killed
end

return kills
