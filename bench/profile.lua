-- Prints where the instructions of client:fetch() go beyond baseline (b).
-- Usage: lua5.4 profile.lua <directory> <fetches>, with callgrind's files of a short and a long run of both clients.
-- Only their difference, divided by the number of fetches, is shown, so that start-up is left out.

local directory, fetches = arg[1], tonumber(arg[2])

local module = "icptoken.so"

local function add_cost(costs, key, count) costs[key] = (costs[key] or 0) + count end

-- A name of callgrind's format: "(7) text" at its first mention, "(7)" from then on.
local function resolve_name(names, value)
  local id, name = value:match "^(%(%d+%)) ?(.*)$"
  if name ~= "" then names[id] = name end
  return names[id]
end

-- One run: what each function, as "name [object]", spent itself and with what it called. The line after "calls=" holds
-- the cost of the call, all other lines of numbers the function's own.
local function read_run(path)
  local own, inclusive, names = {}, {}, { ob = {}, fn = {} }
  local object, key, called
  for line in io.lines(path) do
    local kind, value = line:match "^(%l+)=(.*)$"
    local count = line:match "^[%d+*-]%d* (%d+)$"
    if kind == "ob" then
      object = resolve_name(names.ob, value):match "[^/]+$"
    elseif kind == "fn" then
      key = ("%s [%s]"):format(resolve_name(names.fn, value), object)
    elseif kind == "cob" or kind == "cfn" then
      resolve_name(names[kind:sub(2)], value)
    elseif kind == "calls" then
      called = true
    elseif count then
      add_cost(inclusive, key, count)
      if not called then add_cost(own, key, count) end
      called = false
    end
  end
  return { own = own, inclusive = inclusive }
end

local function subtract(costs, base)
  local difference = {}
  for key, count in pairs(costs) do difference[key] = count - (base[key] or 0) end
  for key, count in pairs(base) do difference[key] = (costs[key] or 0) - count end
  return difference
end

-- Instructions a fetch, by function: own, inclusive.
local function read_costs(client)
  local short = read_run(("%s/%s.short.out"):format(directory, client))
  local long = read_run(("%s/%s.long.out"):format(directory, client))
  local own, inclusive = subtract(long.own, short.own), subtract(long.inclusive, short.inclusive)
  for key in pairs(inclusive) do
    own[key] = (own[key] or 0) / fetches
    inclusive[key] = inclusive[key] / fetches
  end
  return own, inclusive
end

local function get_object(key) return key:match "%[(.-)%]$" end

local function sum_objects(costs)
  local sums = {}
  for key, count in pairs(costs) do
    local object = get_object(key):gsub("^baseline%.so$", module)
    add_cost(sums, object, count)
  end
  return sums
end

-- The keys of weights, heaviest first, without those that weigh less than least.
local function sort_keys(weights, least)
  local keys = {}
  for key, weight in pairs(weights) do
    if math.abs(weight) >= least then keys[#keys + 1] = key end
  end
  table.sort(keys, function(a, b)
    if weights[a] ~= weights[b] then return weights[a] > weights[b] end
    return a < b
  end)
  return keys
end

-- Two columns and their difference, line by line, where it is no less than least.
local function print_columns(title, base, costs, least)
  local difference = subtract(costs, base)
  print(("%-60s %10s %10s %10s"):format(title, "(b)", "fetch()", "beyond"))
  local totals = { 0, 0, 0 }
  for _, key in ipairs(sort_keys(difference, least)) do
    local row = { base[key] or 0, costs[key] or 0, difference[key] }
    for i = 1, 3 do totals[i] = totals[i] + row[i] end
    if row[1] + row[2] >= 1 then print(("%-60s %10.0f %10.0f %+10.0f"):format(key, table.unpack(row))) end
  end
  print(("%-60s %10.0f %10.0f %+10.0f\n"):format("sum of the lines above", table.unpack(totals)))
end

local function print_module(inclusive, own)
  local mine = {}
  for key, count in pairs(inclusive) do
    if get_object(key) == module then mine[key] = count end
  end
  print(("%-60s %10s %10s"):format("functions of the module, what they call included", "inclusive", "own"))
  for _, key in ipairs(sort_keys(mine, 1)) do
    print(("%-60s %10.0f %10.0f"):format(key:gsub(" %[.*", ""), mine[key], own[key] or 0))
  end
  print()
end

local base = read_costs "baseline"
local own, inclusive = read_costs "icptoken"
print(("instructions a fetch on Lua 5.4 (callgrind, %d fetches)\n"):format(fetches))
print_columns("by object (the module's line holds (b)'s own C under (b))", sum_objects(base), sum_objects(own), 0)
print_module(inclusive, own)
print_columns("by function, 50 instructions or more apart", base, own, 50)
