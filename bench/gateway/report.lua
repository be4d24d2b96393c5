-- Prints a table of the gateway's benchmarks, and appends the aim to a file for bench/aims.lua. Usage:
--   luajit report.lua cached|cold|watched <workers> <file of the results> [<file of aims>]. Lines of the results:
--   cached: <row> <requests> <seconds> <nanoseconds of the workers>       cold: <row> <answers> <microseconds>
--   watched: <row> <requests> <seconds> <nanoseconds of the workers> <loads of pages>
-- The n-th runs of all rows were made one after the other, so each ratio is computed within a round; the table shows
-- their median.

local benchmark, workers, path, aims_path = ...

-- The aims: the least ratio to the limit of each table; those of cached and watched are ratios of CPU time.
local AIMS = { cached = 0.95, cold = 0.98, watched = 0.98 }
local ENDPOINT_SECONDS, MAX_INFLIGHT, WORKERS = 0.02, 8, 2

local ROWS = {
  cached = {
    { "plain", "(a) proxy_pass, constant header" }, { "access", "(b) constant from access_by_lua" },
    { "limit", "(c) and header_filter_by_lua" }, { "least", "(d) the least that looks up a token" },
    { "hook", "(e) authorize(), observe(), filter()" },
  },
  watched = {
    { "quiet", "(a) nothing else" }, { "files", "(b) a loop that loads files" },
    { "pages", "(c) a loop of /metrics and /status" },
  },
  cold = { { "endpoint", "(a) wrk, 16 connections" }, { "cold", "(b) the gateway, 2 workers" } },
}

local function read_results()
  local results = {}
  for line in io.lines(path) do
    local row, rest = line:match "^(%S+) (.*)$"
    local numbers = {}
    for number in rest:gmatch "%S+" do numbers[#numbers + 1] = tonumber(number) end
    results[row] = results[row] or {}
    table.insert(results[row], numbers)
  end
  return results
end

-- Returns the results of compute for each run of each row.
local function compute_all(results, compute)
  local values = {}
  for row, runs in pairs(results) do
    values[row] = {}
    for i, run in ipairs(runs) do values[row][i] = compute(unpack(run)) end
  end
  return values
end

local function compute_median(values)
  local sorted = { unpack(values) }
  table.sort(sorted)
  local middle = (#sorted + 1) / 2
  return (sorted[math.floor(middle)] + sorted[math.ceil(middle)]) / 2
end

-- Returns the quarters between which the middle half of the ratios of two rows is.
local function find_quarters(values, row, other)
  local ratios = {}
  for i, value in ipairs(values[row]) do ratios[i] = value / values[other][i] end
  table.sort(ratios)
  return ratios[math.ceil(#ratios / 4)], ratios[math.ceil(#ratios * 3 / 4)]
end

-- Returns the median over the rounds of combine's result for two rows.
local function compare(values, row, other, combine)
  local compared = {}
  for i, value in ipairs(values[row]) do compared[i] = combine(value, values[other][i]) end
  return compute_median(compared)
end

local function divide(a, b) return a / b end
local function subtract(a, b) return a - b end

local function print_aim(what, against, ratio)
  local aim = AIMS[benchmark]
  print(("aim: %s / %s at least %.2f: %.3f, %s"):format(what, against, aim, ratio,
    ratio >= aim and "reached" or "missed"))
  if not aims_path then return end
  local file = assert(io.open(aims_path, "a"))
  file:write(("%s\t%s\t%.3f\t>= %.2f\n"):format(what, against, ratio, aim))
  file:close()
end

local print_table = {}

function print_table.cached(results)
  local rates = compute_all(results, function(requests, seconds) return requests / seconds end)
  local costs = compute_all(results, function(requests, _, cpu) return cpu / requests / 1000 end)
  local loads = compute_all(results, function(_, seconds, cpu) return cpu / seconds / 1e9 end)
  print(("%-36s %10s %15s %6s %6s %10s %6s %6s %6s"):format("cached token, workers: " .. workers, "requests/s",
    "least-greatest", "/ (a)", "/ (c)", "worker us", "/ (a)", "- (c)", "cores"))
  for _, row in ipairs(ROWS.cached) do
    local name, what = row[1], row[2]
    print(("%-36s %10.0f %7.0f-%7.0f %6.3f %6.3f %10.2f %6.3f %6.2f %6.2f"):format(what,
      compute_median(rates[name]), math.min(unpack(rates[name])), math.max(unpack(rates[name])),
      compare(rates, name, "plain", divide), compare(rates, name, "limit", divide),
      compute_median(costs[name]), compare(costs, name, "plain", divide), compare(costs, name, "limit", subtract),
      compute_median(loads[name])))
  end
  print(("medians of %d starts of nginx; worker us: CPU time of the workers a request; cores: how many they had")
    :format(#results.hook))
  print_aim("gateway, cached token", "the least that looks up a token, CPU time",
    compare(costs, "least", "hook", divide))
end

function print_table.cold(results)
  local ceiling = MAX_INFLIGHT * WORKERS / ENDPOINT_SECONDS
  local rates = compute_all(results, function(answers, microseconds) return 1e6 * answers / microseconds end)
  print(("%-36s %10s %15s %8s %6s"):format("cold keys, endpoint of 20 ms", "tokens/s", "least-greatest", "/ limit",
    "/ (a)"))
  for _, row in ipairs(ROWS.cold) do
    local name, what = row[1], row[2]
    local rate = compute_median(rates[name])
    print(("%-36s %10.1f %7.1f-%7.1f %8.3f %6.3f"):format(what, rate, math.min(unpack(rates[name])),
      math.max(unpack(rates[name])), rate / ceiling, compare(rates, name, "endpoint", divide)))
  end
  print(("medians of %d starts of nginx; limit: max_inflight x workers / 0.02 s = %d x %d / 0.02 = %.0f"):format(
    #results.cold, MAX_INFLIGHT, WORKERS, ceiling))
  print_aim("gateway, token to be fetched", "what the endpoint delivers to wrk",
    compare(rates, "cold", "endpoint", divide))
end

function print_table.watched(results)
  local rates = compute_all(results, function(requests, seconds) return requests / seconds end)
  local costs = compute_all(results, function(requests, _, cpu) return cpu / requests / 1000 end)
  local loads = compute_all(results, function(_, seconds, _, count) return count / seconds end)
  print(("%-36s %10s %15s %6s %8s %10s %6s %6s"):format("cached token, workers: " .. workers, "requests/s",
    "least-greatest", "/ (b)", "loads/s", "worker us", "/ (a)", "/ (b)"))
  for _, row in ipairs(ROWS.watched) do
    local name, what = row[1], row[2]
    print(("%-36s %10.0f %7.0f-%7.0f %6.3f %8.0f %10.2f %6.3f %6.3f"):format(what, compute_median(rates[name]),
      math.min(unpack(rates[name])), math.max(unpack(rates[name])), compare(rates, name, "files", divide),
      compute_median(loads[name]), compute_median(costs[name]), compare(costs, name, "quiet", divide),
      compare(costs, name, "files", divide)))
  end
  print(("medians of %d turns; worker us: CPU time of the workers, for all that they did, a request")
    :format(#results.pages))
  print(("half of the ratios (b) / (c) of single turns are from %.3f to %.3f: the wider, the more turns it takes")
    :format(find_quarters(costs, "files", "pages")))
  print_aim("gateway, a loop of scrapes and page loads", "a loop that loads files, CPU time",
    compare(costs, "files", "pages", divide))
end

print_table[benchmark](read_results())
