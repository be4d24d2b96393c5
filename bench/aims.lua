-- Prints the table at the end of `make bench`. Usage: lua5.4 aims.lua <file>, whose lines have the fields what, against
-- what, ratio, and aim ("<= 1.05" or ">= 0.97"), separated by tabs.

local layout = "%-36s %-46s %7s  %7s  %s"

local function is_reached(ratio, aim)
  local sign, number = aim:match "^([<>])= (.+)$"
  if sign == "<" then return ratio <= tonumber(number) end
  return ratio >= tonumber(number)
end

print(layout:format("what", "against", "ratio", "aim", ""))
for line in io.lines(arg[1]) do
  local what, against, ratio, aim = line:match "^(.-)\t(.-)\t(.-)\t(.+)$"
  print(layout:format(what, against, ratio, aim, is_reached(tonumber(ratio), aim) and "reached" or "missed"))
end
