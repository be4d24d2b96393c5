-- Finds the name in a list that an unknown name was probably meant to be. For the gateway and the programs; the module
-- has a rule of its own (src/nearest.c), because it works without any file in Lua and exports no function for this.

-- How many characters must be inserted, deleted, replaced or swapped with their neighbour to turn one text into another
-- (optimal string alignment).
local function count_changes(a, b)
  local rows = { [0] = {} }
  for j = 0, #b do rows[0][j] = j end
  for i = 1, #a do
    rows[i] = { [0] = i }
    for j = 1, #b do
      local replaced = rows[i - 1][j - 1] + (a:byte(i) == b:byte(j) and 0 or 1)
      local least = math.min(replaced, rows[i - 1][j] + 1, rows[i][j - 1] + 1)
      local is_swap = i > 1 and j > 1 and a:byte(i) == b:byte(j - 1) and a:byte(i - 1) == b:byte(j)
      rows[i][j] = is_swap and math.min(least, rows[i - 2][j - 2] + 1) or least
    end
  end
  return rows[#a][#b]
end

--- Returns the name of a list that is most similar to this one, or nil if none is similar.
return function(name, names)
  local nearest, least = nil, math.max(1, math.floor(#name / 3)) + 1
  for _, candidate in ipairs(names) do
    local changes = count_changes(name, candidate)
    if changes < least then nearest, least = candidate, changes end
  end
  return nearest
end
