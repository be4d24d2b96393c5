-- Prints the benchmark's table. Usage: lua5.4 report.lua <results file>, the lines that bench/run collects:
--   variant <variant>
--   time <variant> <fetches> <wall s> <cpu s>     instructions <variant> <fetches> <instructions>
--   connections <variant> <n of 2 fetches>        absent <variant> <why>        counter <tool>

local groups = { "bare", "baseline", "icptoken", "luacurl", "luasec", "https", "popen" }
local titles = {
  bare = "(a) libcurl in C", baseline = "(b) libcurl, cjson, table", icptoken = "(c) client:fetch()",
  luacurl = "(d) lua-curl, cjson", luasec = "(d) LuaSec kept, cjson", https = "(d) ssl.https, cjson",
  popen = "(d) curl by popen, cjson",
}
local aims = { instructions = 1.05, time = 1.05 }

local rows, order, counter = {}, {}, "not counted"

-- A row is made at its first mention, by the line that names it.
local function find_row(variant)
  if not rows[variant] then
    local client, runtime = variant:match "^(.-):(.*)$"
    rows[variant] = { client = client, runtime = runtime, walls = {}, cpus = {} }
    order[#order + 1] = rows[variant]
  end
  return rows[variant]
end

local readers = {}

function readers.variant() end

function readers.time(row, fetches, wall, cpu)
  table.insert(row.walls, 1e6 * wall / fetches)
  table.insert(row.cpus, 1e6 * cpu / fetches)
end

function readers.instructions(row, fetches, count) row.instructions = count / fetches end
function readers.connections(row, count) row.kept = tonumber(count) == 0 end
function readers.absent(row, ...) row.absent = table.concat({ ... }, " ") end

local function read_results(path)
  for line in io.lines(path) do
    local words = {}
    for word in line:gmatch "%S+" do words[#words + 1] = word end
    if words[1] == "counter" then
      counter = words[2]
    else
      readers[words[1]](find_row(words[2]), table.unpack(words, 3))
    end
  end
end

local function find_median(values)
  local sorted = table.move(values, 1, #values, 1, {})
  table.sort(sorted)
  local n = #sorted
  return (sorted[(n + 1) // 2] + sorted[n // 2 + 1]) / 2
end

-- The median of each round's own ratio: what else the machine does weighs on both sides of a round alike.
local function compute_time_ratio(row, base)
  local ratios = {}
  for round, wall in ipairs(row.walls) do ratios[round] = wall / base.walls[round] end
  return find_median(ratios)
end

local function compute_instruction_ratio(row, base)
  return row.instructions and base.instructions and row.instructions / base.instructions
end

local function format_number(value)
  if not value then return "-" end
  local digits = ("%.0f"):format(value)
  return (digits:reverse():gsub("(%d%d%d)", "%1,"):reverse():gsub("^,", ""))
end

local function format_ratio(compute, row, base)
  local ratio = base and compute(row, base)
  return ratio and ("%.3f"):format(ratio) or "-"
end

local layout = "%-26s %-7s %9s %9s %9s %12s  %8s %8s  %8s %8s  %s"

local function print_row(row)
  if row.absent then
    local why = row.absent:match "module .- not found" and
      (row.client == "icptoken" and "not built" or "not installed") or row.absent
    print(("%-26s %-7s %s"):format(titles[row.client], row.runtime, why))
    return
  end
  local a, b = rows["bare:c"], rows["baseline:" .. row.runtime]
  print(layout:format(titles[row.client], row.runtime, ("%.1f"):format(find_median(row.walls)),
    ("%.1f"):format(math.min(table.unpack(row.walls))),
    row.client == "popen" and "-" or ("%.1f"):format(find_median(row.cpus)), format_number(row.instructions),
    format_ratio(compute_time_ratio, row, a), format_ratio(compute_time_ratio, row, b),
    format_ratio(compute_instruction_ratio, row, a), format_ratio(compute_instruction_ratio, row, b),
    row.kept and "kept" or "new"))
end

local function print_table()
  print(layout:format("per fetch", "runtime", "us", "fastest", "us CPU", "instructions",
    "us/(a)", "us/(b)", "instr/a", "instr/b", "connection"))
  for _, client in ipairs(groups) do
    for _, row in ipairs(order) do
      if row.client == client then print_row(row) end
    end
  end
end

local function print_notes()
  print "us: median of the rounds; fastest: the best round; us CPU: user and system time of the client's process."
  print "us/(a), us/(b): median of each round's own ratio."
  print "(b) is the one of the row's own runtime. lua-curl brings libcurl with GnuTLS; all others use OpenSSL."
  print(("Instructions: %s%s; start-up and the first two fetches left out."):format(counter,
    counter == "callgrind" and " (user space, on valgrind's own CPU with fewer vector instructions)" or ""))
end

local function print_reached()
  for _, row in ipairs(order) do
    if row.client == "icptoken" and not row.absent then
      print(("reached on %-7s %s of (b) in instructions (aim %.2f), %s of (a) in time (aim %.2f)"):format(
        row.runtime,
        format_ratio(compute_instruction_ratio, row, rows["baseline:" .. row.runtime]), aims.instructions,
        format_ratio(compute_time_ratio, row, rows["bare:c"]), aims.time))
    end
  end
  print "Where the rest goes: bench/run --profile."
end

read_results(arg[1])
print_table()
print_notes()
print_reached()
