-- Prints a benchmark's table. Usage: lua5.4 report.lua <results file> [<file of aims>]; the aims, reached or
-- not, are appended to the second file, for aims.lua. bench/run writes these lines to the first one:
--   benchmark <name> <count of a round>           variant <variant>
--   time <variant> <count> <wall s> <cpu s>       instructions <variant> <count> <instructions>
--   connections <variant> <opened> <count>        absent <variant> <why>
--   allocations <variant> ready|<why not>         counter <tool>

-- Each benchmark has a unit of time (scale of them are a second), the two limits with which rows are compared, the
-- clients in the order of the table, and aims: a client, the client that it is compared with, and the greatest ratio in
-- time or in instructions.
local benchmarks = {
  fetch = {
    what = "fetch", unit = "us", scale = 1e6, limits = { "bare:c", "baseline:%s" },
    clients = {
      { "bare", "(a) libcurl in C" }, { "baseline", "(b) libcurl, cjson, table" },
      { "safe", "(b') safe before 8.1" },
      { "icptoken", "(c) client:fetch()" }, { "luacurl", "(d) lua-curl, cjson" },
      { "luasec", "(d) LuaSec kept, cjson" }, { "https", "(d) ssl.https, cjson" },
      { "popen", "(d) curl by popen, cjson" }, { "oneshot", "(c) icptoken.fetch by popen" },
    },
    aims = {
      { client = "icptoken", base = "safe:%s", measure = "instructions", most = 1.13 },
      { client = "oneshot", base = "popen:%s", measure = "time", most = 1.15 },
    },
    notes = {
      "(b') replaces its handle for each fetch where libcurl is older than 8.1, as src/transfer.c explains.",
      "(b) is measured on the row's own runtime. lua-curl uses libcurl with GnuTLS; all others use OpenSSL.",
    },
  },
  cached = {
    what = "call", unit = "ns", scale = 1e9, limits = { "empty:%s", "method:%s" },
    clients = {
      { "empty", "(a) C function, clock" }, { "method", "(b) C method, clock" },
      { "least", "(b') and returns as much" }, { "token", "(c) client:token()" },
      { "request", "(c) client:token(kept)" }, { "literal", "(c) client:token{scope=}" },
      { "table", "(d) table, os.time()" }, { "lrucache", "(d) lua-resty-lrucache" },
    },
    aims = { { client = "token", base = "least:%s", measure = "time", most = 1.25 } },
    notes = {
      "(a), (b): an empty C function that reads CLOCK_BOOTTIME, called as a local and as a method of a userdata.",
      "(b') also recognises the userdata, and returns a table, nil and a string, as client:token() does.",
      "lua-resty-lrucache runs in nginx's init_by_lua; its ngx.now reads the time that nginx caches, and no clock.",
    },
  },
  many = {
    what = "fetch", unit = "us", scale = 1e6, limits = { "many:c", "many2:c" },
    clients = {
      { "many", "(a) multi loop in C, 1.1" }, { "least_all", "(a') and makes tables" },
      { "fetch_all", "(c) fetch_all, HTTP/1.1" },
      { "many2", "(b) multi loop in C, 2" }, { "least_all2", "(b') and makes tables" },
      { "fetch_all2", "(c) fetch_all, HTTP/2" },
      { "in_a_row", "(d) client:fetch in a row" }, { "xargs", "(d) xargs -P 16 curl" },
    },
    aims = {
      { client = "fetch_all", base = "least_all:%s", measure = "instructions", most = 1.15 },
      { client = "fetch_all2", base = "least_all2:%s", measure = "instructions", most = 1.15 },
    },
    notes = {
      "(a), (b): bare libcurl, 16 at once, decodes no answer. (a'), (b') decode each and make a table, as (c) does,",
      "and replace the handle for each request where libcurl is older than 8.1.",
    },
  },
}

local benchmark, round_count
local rows, order, counter = {}, {}, "not counted"

-- Returns the row of a variant; the first line that names it creates it.
local function find_row(variant)
  if not rows[variant] then
    local client, runtime = variant:match "^(.-):(.*)$"
    rows[variant] = { client = client, runtime = runtime, times = {}, cpus = {} }
    order[#order + 1] = rows[variant]
  end
  return rows[variant]
end

local readers = {}

function readers.variant() end

function readers.time(row, count, wall, cpu)
  table.insert(row.times, benchmark.scale * wall / count)
  table.insert(row.cpus, benchmark.scale * cpu / count)
end

function readers.instructions(row, count, instructions) row.instructions = instructions / count end

function readers.connections(row, opened, count)
  row.opened = tonumber(opened)
  row.opened_of = tonumber(count)
end

function readers.absent(row, ...) row.absent = table.concat({ ... }, " ") end

function readers.allocations(row, ...) row.allocations = table.concat({ ... }, " ") end

local function read_results(path)
  for line in io.lines(path) do
    local words = {}
    for word in line:gmatch "%S+" do words[#words + 1] = word end
    if words[1] == "counter" then
      counter = words[2]
    elseif words[1] == "benchmark" then
      benchmark, round_count = benchmarks[words[2]], tonumber(words[3])
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

local ratios = {}

-- Returns the median of the ratios within the rounds, because other load on the machine affects a round as a whole.
function ratios.time(row, base)
  local values = {}
  for round, time in ipairs(row.times) do values[round] = time / base.times[round] end
  return find_median(values)
end

function ratios.instructions(row, base)
  return row.instructions and base.instructions and row.instructions / base.instructions
end

local function find_limit(row, number) return rows[benchmark.limits[number]:format(row.runtime)] end

local function format_number(value)
  if not value then return "-" end
  local digits = ("%.0f"):format(value)
  return (digits:reverse():gsub("(%d%d%d)", "%1,"):reverse():gsub("^,", ""))
end

local function format_ratio(row, measure, limit)
  local base = find_limit(row, limit)
  local ratio = base and not base.absent and ratios[measure](row, base)
  return ratio and ("%.3f"):format(ratio) or "-"
end

local function format_connections(row)
  if not row.opened then return "-" end
  if row.opened == 0 then return "kept" end
  return ("%d for %d"):format(row.opened, row.opened_of)
end

local layout = "%-26s %-7s %9s %9s %9s %12s  %8s %8s  %8s %8s  %s"

local function print_row(row, title)
  if row.absent then
    local why = row.absent:match "module .- not found" and "not built or not installed" or row.absent
    print(("%-26s %-7s %s"):format(title, row.runtime, why))
    return
  end
  local forks = row.client == "popen" or row.client == "oneshot" or row.client == "xargs"
  print(layout:format(title, row.runtime, ("%.1f"):format(find_median(row.times)),
    ("%.1f"):format(math.min(table.unpack(row.times))),
    forks and "-" or ("%.1f"):format(find_median(row.cpus)), format_number(row.instructions),
    format_ratio(row, "time", 1), format_ratio(row, "time", 2),
    format_ratio(row, "instructions", 1), format_ratio(row, "instructions", 2), format_connections(row)))
end

local function print_table()
  local unit = benchmark.unit
  print(layout:format(("per %s, %s a round"):format(benchmark.what, format_number(round_count)), "runtime", unit,
    "fastest", unit .. " CPU", "instructions", unit .. "/(a)", unit .. "/(b)", "instr/a", "instr/b", "connections"))
  for _, client in ipairs(benchmark.clients) do
    for _, row in ipairs(order) do
      if row.client == client[1] then print_row(row, client[2]) end
    end
  end
end

local function print_notes()
  local unit = benchmark.unit
  print(("%s: median of the rounds; fastest: the best round; %s CPU: user and system time of the client's process.")
    :format(unit, unit))
  print(("%s/(a), %s/(b): median of each round's own ratio."):format(unit, unit))
  for _, note in ipairs(benchmark.notes) do print(note) end
  if counter ~= "not counted" then
    print(("Instructions: %s%s; start-up and a first round left out."):format(counter,
      counter == "callgrind" and " (user space, on valgrind's own CPU with fewer vector instructions)" or ""))
  end
end

local function print_allocations()
  for _, row in ipairs(order) do
    if row.allocations then
      print(("allocations in 10,000 calls of client:token() on %-7s %s"):format(row.runtime,
        row.allocations == "ready" and "none" or row.allocations))
    end
  end
end

-- Writes a line of tab-separated fields for each aim: what, against what, the ratio, and the aim.
local function write_aims(file)
  local titles = {}
  for _, client in ipairs(benchmark.clients) do titles[client[1]] = client[2] end
  for _, aim in ipairs(benchmark.aims) do
    for _, row in ipairs(order) do
      local base = rows[aim.base:format(row.runtime)]
      local ratio = row.client == aim.client and not row.absent and base and not base.absent
        and ratios[aim.measure](row, base)
      if ratio then
        file:write(("%s on %s\t%s, %s\t%.3f\t<= %.2f\n"):format(titles[row.client], row.runtime, titles[base.client],
          aim.measure, ratio, aim.most))
      end
    end
  end
end

read_results(arg[1])
print_table()
print_notes()
print_allocations()
if arg[2] then
  local file = assert(io.open(arg[2], "a"))
  write_aims(file)
  file:close()
end
print "To see which functions account for the difference: bench/run --profile."
