-- Prints which functions account for the instructions of a client of the module, compared with its lower limit.
-- Usage: lua5.4 profile.lua <directory> <count> <limit> <client>. The directory contains callgrind's files of both, for
-- one round and for two rounds of count. The output is their difference divided by count, so start-up does not count.

local directory, count = arg[1], tonumber(arg[2])
local limit_name, client_name = arg[3], arg[4]

local module = "icptoken.so"
local own_objects = { ["baseline.so"] = true, ["meter.so"] = true, bare = true } -- the limits' C code

local function add_cost(costs, key, cost) costs[key] = (costs[key] or 0) + cost end

-- A name in callgrind's format: "(7) text" where it occurs first, then "(7)".
local function resolve_name(names, value)
  local id, name = value:match "^(%(%d+%)) ?(.*)$"
  if name ~= "" then names[id] = name end
  return names[id]
end

-- Reads one run: the own and the inclusive cost of each function, named "name [object]". The line after "calls=" is the
-- cost of that call; all other lines of numbers are own cost.
local function read_run(path)
  local own, inclusive, names = {}, {}, { ob = {}, fn = {} }
  local object, key, called
  for line in io.lines(path) do
    local kind, value = line:match "^(%l+)=(.*)$"
    local cost = line:match "^[%d+*-]%d* (%d+)$"
    if kind == "ob" then
      object = resolve_name(names.ob, value):match "[^/]+$"
    elseif kind == "fn" then
      key = ("%s [%s]"):format(resolve_name(names.fn, value), object)
    elseif kind == "cob" or kind == "cfn" then
      resolve_name(names[kind:sub(2)], value)
    elseif kind == "calls" then
      called = true
    elseif cost then
      add_cost(inclusive, key, cost)
      if not called then add_cost(own, key, cost) end
      called = false
    end
  end
  return { own = own, inclusive = inclusive }
end

local function subtract(costs, base)
  local difference = {}
  for key, cost in pairs(costs) do difference[key] = cost - (base[key] or 0) end
  for key, cost in pairs(base) do difference[key] = (costs[key] or 0) - cost end
  return difference
end

-- Returns instructions per fetch or call, by function: own, inclusive.
local function read_costs(which)
  local short = read_run(("%s/%s.1.out"):format(directory, which))
  local long = read_run(("%s/%s.2.out"):format(directory, which))
  local own, inclusive = subtract(long.own, short.own), subtract(long.inclusive, short.inclusive)
  for key in pairs(inclusive) do
    own[key] = (own[key] or 0) / count
    inclusive[key] = inclusive[key] / count
  end
  return own, inclusive
end

local function get_object(key) return key:match "%[(.-)%]$" end

local function sum_objects(costs)
  local sums = {}
  for key, cost in pairs(costs) do
    local object = own_objects[get_object(key)] and module or get_object(key)
    add_cost(sums, object, cost)
  end
  return sums
end

-- Returns the keys of weights, heaviest first, without those lighter than least.
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

-- Prints two columns and their difference for each key whose difference is at least least.
local function print_columns(title, base, costs, least)
  local difference = subtract(costs, base)
  print(("%-60s %10s %10s %10s"):format(title, "limit", "client", "beyond"))
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
  for key, cost in pairs(inclusive) do
    if get_object(key) == module then mine[key] = cost end
  end
  print(("%-60s %10s %10s"):format("functions of the module, what they call included", "inclusive", "own"))
  for _, key in ipairs(sort_keys(mine, 1)) do
    print(("%-60s %10.0f %10.0f"):format(key:gsub(" %[.*", ""), mine[key], own[key] or 0))
  end
  print()
end

local base = read_costs "limit"
local own, inclusive = read_costs "client"
print(("instructions per call, mean of %d: %s, and its limit %s (callgrind)\n"):format(count, client_name, limit_name))
print_columns("by object (the module's line includes the limit's own C code)", sum_objects(base), sum_objects(own), 0)
print_module(inclusive, own)
local total = 0
for _, cost in pairs(own) do total = total + cost end
print_columns("by function, where they differ by at least 1/2,000 of the total", base, own, total / 2000)
