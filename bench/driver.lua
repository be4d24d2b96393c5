-- Drives one client of a benchmark.
-- Usage: <runtime> driver.lua <benchmark> <client> <bench directory> <build directory> <url> <CA file> <ID token file>
-- Runs once and prints "ready", "missing <why>" or "failed <why>". Then, for each count read from standard input, it
-- runs that many times on the same client and prints the wall and CPU seconds that they took (as bare.c does).

local benchmark, client_name, here, build, url, cacert, id_token_file = ...
local luajit = rawget(_G, "jit")
local runtime = luajit and "luajit" or _VERSION:lower():gsub(" ", "")
package.cpath = ("%s/bench/%s/?.so;%s/%s/?.so;%s"):format(build, runtime, build, runtime, package.cpath)

local function read_line(path)
  local file = assert(io.open(path))
  local line = file:read "*l"
  file:close()
  return line
end

-- Stops the run unless the answer, which every client must return, is a token.
local function check_answer(answer, why)
  if not (answer and answer.token and answer.expires_in == 1800) then error(why or "the answer is not a token", 0) end
end

-- The settings for the clients. The curl program reads the credential from a file of mode 0600, not its command line.
local setup = {
  url = url, cacert = cacert, id_token = read_line(id_token_file), id_token_file = id_token_file,
  check_answer = check_answer,
  user_agent = "bench", -- of equal length in all requests, because libcurl formats headers byte by byte
  curl_config = id_token_file .. ".curl", scratch = id_token_file .. ".urls",
}

local function say(...)
  io.write(table.concat({ ... }, " "):gsub("%s+", " "), "\n")
  io.flush()
end

local function run_count(run, clock, count)
  local wall, cpu = clock(), os.clock()
  run(count)
  say(("%.9f %.9f"):format(clock() - wall, os.clock() - cpu))
end

local function serve_counts(run, clock)
  run(1)
  say "ready"
  for line in io.lines() do run_count(run, clock, tonumber(line)) end
end

local clients = assert(loadfile(("%s/%s.lua"):format(here, benchmark)))(setup)
local found, run = pcall(clients[client_name])
if not found then
  say("missing", tostring(run))
else
  local served, why = pcall(serve_counts, run, require("meter").clock)
  if not served then say("failed", tostring(why)) end
end
