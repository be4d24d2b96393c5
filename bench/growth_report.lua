-- Prints tables of what bench/growth measured, and draws them.
-- Usage: lua5.4 growth_report.lua <results> [<SVG file>]. Lines of the results: title, n, column, value, separated by
-- tabs. Each title is a table, and each n one of its rows.

local path, picture = ...

-- Returns the tables: lists of { title, names (of the columns), rows ({ n, values by name }) }.
local function read_tables()
  local tables, by_title = {}, {}
  for line in io.lines(path) do
    local title, n, name, value = line:match "^(.-)\t(.-)\t(.-)\t(.+)$"
    local one = by_title[title]
    if not one then
      one = { title = title, names = {}, rows = {} }
      by_title[title], tables[#tables + 1] = one, one
    end
    n = math.tointeger(tonumber(n))
    local row = one.rows[#one.rows]
    if not row or row.n ~= n then
      row = { n = n, values = {} }
      one.rows[#one.rows + 1] = row
    end
    row.values[name] = tonumber(value)
    if #one.rows == 1 then one.names[#one.names + 1] = name end
  end
  return tables
end

local function write_value(value)
  return value < 10 and ("%.2f"):format(value) or ("%.0f"):format(value):reverse():gsub("(%d%d%d)", "%1,"):reverse()
    :gsub("^,", "")
end

local function print_table(one)
  io.write(("%-52s"):format(one.title))
  for _, name in ipairs(one.names) do io.write((" %25s"):format(name)) end
  print()
  for _, row in ipairs(one.rows) do
    io.write(("%-52s"):format(write_value(row.n):gsub("%.00$", "")))
    for _, name in ipairs(one.names) do io.write((" %25s"):format((write_value(row.values[name])))) end
    print()
  end
  print()
end

-- A chart with logarithmic axes: a line for each column.
local WIDTH, HEIGHT, LEFT, TOP, RIGHT, BOTTOM, ACROSS = 240, 180, 70, 40, 30, 120, 3
local COLOURS = { "#1f5fa8", "#b5532a", "#3c7d3c", "#7a4a9a", "#8a6d00" }

local function scale(value, first, last, length)
  return (math.log(value) - math.log(first)) / (math.log(last) - math.log(first)) * length
end

-- Returns the powers of ten between which all values of a table are.
local function find_range(one)
  local least, greatest = math.huge, 0
  for _, row in ipairs(one.rows) do
    for _, value in pairs(row.values) do
      least, greatest = math.min(least, value), math.max(greatest, value)
    end
  end
  least = math.floor(math.log(math.max(least, 0.01), 10))
  return least, math.max(least + 1, math.ceil(math.log(greatest, 10)))
end

local function draw_chart(one, x, y)
  local parts, rows = {}, one.rows
  local first, last = rows[1].n, rows[#rows].n
  local low, high = find_range(one)
  local function add(form, ...) parts[#parts + 1] = form:format(...) end
  local function place(n, value)
    local up = scale(math.max(value, 10 ^ low), 10 ^ low, 10 ^ high, HEIGHT)
    return LEFT + scale(n, first, last, WIDTH), TOP + HEIGHT - up
  end
  add('<g transform="translate(%d,%d)"><text x="%d" y="20" font-weight="bold">%s</text>', x, y, LEFT - 40, one.title)
  add('<rect x="%d" y="%d" width="%d" height="%d" fill="none" stroke="#999"/>', LEFT, TOP, WIDTH, HEIGHT)
  for _, row in ipairs(rows) do
    add('<text x="%.0f" y="%d" text-anchor="middle">%d</text>', (place(row.n, 10 ^ low)), TOP + HEIGHT + 16, row.n)
  end
  for power = low, high do
    local _, down = place(first, 10 ^ power)
    add('<text x="%d" y="%.0f" text-anchor="end">%s</text>', LEFT - 4, down + 4, ("%.14g"):format(10.0 ^ power))
  end
  for i, name in ipairs(one.names) do
    local points = {}
    for _, row in ipairs(rows) do points[#points + 1] = ("%.1f,%.1f"):format(place(row.n, row.values[name])) end
    add('<polyline points="%s" fill="none" stroke="%s" stroke-width="2"/>', table.concat(points, " "), COLOURS[i])
    add('<text x="%d" y="%d" fill="%s">%s</text>', LEFT, TOP + HEIGHT + 20 + 16 * i, COLOURS[i], name)
  end
  add "</g>"
  return table.concat(parts, "\n")
end

local function draw(tables)
  local file = assert(io.open(picture, "w"))
  local across, down = LEFT + WIDTH + RIGHT, TOP + HEIGHT + BOTTOM
  local width, height = ACROSS * across, math.ceil(#tables / ACROSS) * down
  file:write(('<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d" font-family="sans-serif" font-size="12">\n')
    :format(width, height), ('<rect width="%d" height="%d" fill="#fff"/>\n'):format(width, height))
  for i, one in ipairs(tables) do
    file:write(draw_chart(one, (i - 1) % ACROSS * across, (i - 1) // ACROSS * down), "\n")
  end
  file:write "</svg>\n"
  file:close()
end

local tables = read_tables()
for _, one in ipairs(tables) do print_table(one) end
if picture then draw(tables) end
