-- The module as a whole: its names and version, what it exports, how its sources depend on each other, and that types
-- and rockspecs agree with the code. spec/docs_spec.lua compares the documentation with the types.

local read = require "support.files".read

local function lines_of(command)
  local pipe = assert(io.popen(command))
  local list = {}
  for line in pipe:lines() do list[#list + 1] = line end
  pipe:close()
  return list
end

-- the directory of this runtime's module that was built without a sanitizer, which would add symbols of its own
local function plain_build()
  local loaded = package.cpath:match "(build/[^;]-)/%?%.so"
  return (loaded:gsub("%-asan$", ""))
end

local function sources()
  local list = lines_of "ls src/*.c"
  table.insert(list, 1, "lua_icptoken.c")
  return list
end

local function rockspec(path)
  local environment = {}
  local chunk
  if setfenv then -- luacheck: ignore 113
    chunk = assert(loadfile(path))
    setfenv(chunk, environment) -- luacheck: ignore 113
  else
    chunk = assert(loadfile(path, "t", environment))
  end
  chunk()
  return environment
end

local function error_codes()
  local codes = {}
  for code in read "src/failure.h":gmatch 'X%([A-Z_]+, "([a-z_]+)"%)' do codes[#codes + 1] = code end
  assert(#codes > 15)
  return codes
end

-- name and kinds of each row of the table of options, and the classes of the types file that must have it
local function option_rows()
  local classes = {
    ENDPOINT = { "Options", "Login" }, FETCH = { "Options", "FetchRequest" },
    REQUEST = { "Options", "Request" }, ASKING = { "Request" },
    OPTIONS_CLIENT = { "Options" }, OPTIONS_FETCH = { "FetchRequest" }, OPTIONS_LOGIN = { "Login" },
  }
  local rows = {}
  local list = read "src/options.c":match "option_list%[%] = (%b{})"
  for name, places in list:gmatch '[A-Z]+%("([a-z_]+)",%s*([A-Z_| ]+),' do
    local row = { name = name, classes = {} }
    for place in places:gmatch "[A-Z_]+" do
      for _, class in ipairs(assert(classes[place], place)) do row.classes[class] = true end
    end
    rows[#rows + 1] = row
  end
  assert(#rows > 30)
  return rows
end

describe("the module", function()
  local icptoken = require "icptoken"

  it("has its name and version", function()
    assert.equal("icptoken", icptoken._NAME)
    assert.matches("^%d+%.%d+%.%d+$", icptoken._VERSION)
  end)

  it("has one version number, in the header, the rockspec and the changelog", function()
    local version = read "src/version.h":match 'ICPTOKEN_VERSION "([^"]+)"'
    assert.equal(version, icptoken._VERSION)
    local released = rockspec("rockspecs/icptoken-" .. version .. "-1.rockspec")
    assert.equal(version .. "-1", released.version)
    assert.equal("v" .. version, released.source.tag)
    assert.equal(version, read "CHANGELOG.md":match "\n## (%d+%.%d+%.%d+)")
  end)

  -- scripts/rock compares what they install with the files that are there
  it("is built by its rockspecs in the same way", function()
    local development = rockspec "icptoken-scm-0.rockspec"
    local released = rockspec("rockspecs/icptoken-" .. icptoken._VERSION .. "-1.rockspec")
    for _, field in ipairs { "build", "dependencies", "external_dependencies", "description" } do
      assert.same(development[field], released[field])
    end
  end)

  it("includes every Lua file of the programs", function()
    for _, path in ipairs { "rockspecs/icptoken-cli-scm-0.rockspec",
      "rockspecs/icptoken-cli-" .. icptoken._VERSION .. "-1.rockspec" } do
      local build = rockspec(path).build
      for _, file in ipairs(lines_of "find lua/icptoken/cli* lua/icptoken/command -name '*.lua'") do
        local name = file:match "^lua/(.*)%.lua$":gsub("/", ".")
        assert.equal(file, build.install.lua[name], path)
        build.install.lua[name] = nil
      end
      assert.is_nil(next(build.install.lua), path)
      for _, file in ipairs(lines_of "ls bin") do assert.equal("bin/" .. file, build.install.bin[file]) end
    end
    assert.equal(icptoken._VERSION, require "icptoken.cli.version")
  end)

  it("exports luaopen_icptoken and nothing else", function()
    local own = {}
    for _, line in ipairs(lines_of("nm -D --defined-only " .. plain_build() .. "/icptoken.so")) do
      own[#own + 1] = line:match "%S+$"
    end
    assert.same({ "luaopen_icptoken" }, own)
  end)
end)

describe("the sources", function()
  -- the files of src/ that a file includes, directly and through others
  local function reach(path, seen)
    seen = seen or {}
    for header in read(path):gmatch '#include "([^"]+)"' do
      local included = "src/" .. header:gsub("^src/", "")
      if not seen[included] then
        seen[included] = true
        reach(included, seen)
      end
    end
    return seen
  end

  local function includes_lua(path)
    if read(path):find("#include <l[a-z]+%.h>") then return true end
    for header in pairs(reach(path)) do
      if read(header):find("#include <l[a-z]+%.h>") then return true end
    end
    return false
  end

  it("use Lua only in the layers that convert tables", function()
    local knowing = {}
    for _, path in ipairs(lines_of "ls src/*.c") do
      if includes_lua(path) then knowing[#knowing + 1] = path:match "src/(.*)%.c" end
    end
    assert.same({ "authorization", "batch", "call", "client", "compat", "errors", "files", "inspect", "json", "lockout",
      "login", "option", "option_lists", "option_values", "options", "pipe", "request", "response", "result", "stats",
      "status", "table", "token" }, knowing)
  end)

  it("include each other in one direction", function()
    for _, path in ipairs(lines_of "ls src/*.h") do
      assert.is_nil(reach(path)[path], path .. " includes itself through others")
    end
  end)

  it("contain no state that threads would share", function()
    local measured = 0
    for _, source in ipairs(sources()) do
      local object = plain_build() .. "/" .. source:gsub("%.c$", ".o")
      for _, line in ipairs(lines_of("size -A " .. object)) do
        local section, size = line:match "^(%.%S+)%s+(%d+)"
        measured = measured + (section == ".text" and tonumber(size) or 0)
        if section == ".data" or section == ".bss" then assert.equal("0", size, source .. " " .. section) end
      end
    end
    assert.is_true(measured > 10000)
  end)
end)

describe("the lists outside the sources", function()
  it("have the gateway's answer to every error code", function()
    local codes = error_codes()
    codes[#codes + 1] = "internal"
    table.sort(codes)
    assert.same(codes, (select(2, require "icptoken.gateway.codes".list())))
  end)

  it("have every option, with the tables that may contain it, and no other", function()
    local types = read "types/icptoken.lua"
    local named = {}
    for _, class in ipairs { "Options", "Request", "FetchRequest", "Login" } do
      named[class] = {}
      for name in types:match("@class icptoken%." .. class .. "%f[^%w].-\n\n"):gmatch "@field ([a-z_]+)" do
        named[class][name] = true
      end
    end
    for _, row in ipairs(option_rows()) do
      for class, names in pairs(named) do
        assert.equal(row.classes[class], names[row.name], class .. "." .. row.name)
        names[row.name] = nil
      end
    end
    for class, names in pairs(named) do assert.is_nil(next(names), class) end
  end)
end)
