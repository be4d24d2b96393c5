-- Prints a table of the gateway's benchmarks. Usage: luajit report.lua cached|cold <workers> <file of the results>:
--   cached: <row> <requests> <seconds> <nanoseconds of the workers>       cold: <row> <answers> <microseconds>
-- The n-th runs of all rows were made one after the other, so ratios are those of a round, and their median is shown.

local benchmark, workers, path = ...

-- Of the hook, in requests a second, beside the limit; and of cold fetches.
local AIM = 0.95
local ENDPOINT_SECONDS, MAX_INFLIGHT, WORKERS = 0.02, 8, 2

local ROWS = {
  cached = {
    { "plain", "(a) proxy_pass, constant header" }, { "access", "(b) constant from access_by_lua" },
    { "limit", "(c) and header_filter_by_lua" }, { "hook", "(d) authorize() and observe()" },
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

-- What compute gives for each run of each row.
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

-- The median over the rounds of what combine gives for two rows.
local function compare(values, row, other, combine)
  local compared = {}
  for i, value in ipairs(values[row]) do compared[i] = combine(value, values[other][i]) end
  return compute_median(compared)
end

local function divide(a, b) return a / b end
local function subtract(a, b) return a - b end

local function print_aim(what, ratio)
  print(("aim: %s at least %.2f: %.3f, %s"):format(what, AIM, ratio, ratio >= AIM and "reached" or "missed"))
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
  print_aim("requests a second, (d) / (c),", compare(rates, "hook", "limit", divide))
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
  print_aim("(b) / limit", compute_median(rates.cold) / ceiling)
end

print_table[benchmark](read_results())
