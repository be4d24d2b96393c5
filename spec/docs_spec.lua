-- The documentation: its examples run unchanged, its links and files exist, and it names exactly the functions, options
-- and error codes that exist. What concerns the gateway is in spec/gateway/docs_spec.lua, the examples for
-- the shell in spec/scripts/docs_spec.lua.

local docs = require "support.docs"
local files = require "support.files"
local interpreter = require "support.interpreter"
local shell = require "support.shell"
local stub_client = require "stub.client"

local PAGES = docs.list_pages()
local API = "docs/api.md"

local run_shell = shell.run

local function to_set(names)
  local set = {}
  for _, name in ipairs(names) do set[name] = true end
  return set
end

local function sorted_keys(set)
  local keys = {}
  for key in pairs(set) do keys[#keys + 1] = key end
  table.sort(keys)
  return keys
end

-- Names without those of another list.
local function without(names, others)
  local left, set = {}, to_set(others)
  for _, name in ipairs(names) do
    if not set[name] then left[#left + 1] = name end
  end
  return left
end

describe("an example in Lua", function()
  local stub
  setup(function() stub = stub_client.share() end)
  teardown(function() stub:stop() end)
  before_each(function() stub:reset() end)

  -- The environment that the examples expect: mycluster.icp:8443 is the stub, and the files are the stub's.
  local SURROUNDINGS = [[
    local icptoken = require "icptoken"
    local port, paths = %d, { ["/etc/icp/ca.crt"] = %q, ["/run/icp/id_token"] = %q }
    for _, name in ipairs { "new", "fetch", "login" } do
      local original = icptoken[name]
      icptoken[name] = function(options)
        local placed = {}
        for option, value in pairs(options) do placed[option] = paths[value] or value end
        assert(options.host == "mycluster.icp" and options.port == nil, "an example with another endpoint")
        assert(paths[options.cacert], "an example without the cluster's CA")
        if options.resolve then assert(options.resolve["mycluster.icp:8443"]) end
        placed.port, placed.resolve = port, { ["mycluster.icp:" .. port] = "127.0.0.1" }
        return original(placed)
      end
    end
  ]]

  -- The lines that its comments say it prints.
  local function list_promised(text)
    local lines = {}
    for line in text:gmatch "%-%-> ([^\n]+)" do lines[#lines + 1] = line end
    return lines
  end

  local function run(text)
    local code = SURROUNDINGS:format(stub.port, stub.ca, stub.id_token_file) .. "\n" .. text
    local succeeded, _, output = interpreter.run { code = code,
      env = { ID_TOKEN = stub.id_token, ICP_PASSWORD = stub.password } }
    assert.is_true(succeeded, output)
    return output
  end

  local function check(text, block)
    local output, printed = run(text), {}
    for line in output:gmatch "[^\n]+" do printed[#printed + 1] = line:gsub("%s+", " ") end
    local promised = list_promised(block.text)
    if #promised > 0 then assert.same(promised, printed) end
    local is_about_closing = block.text:find "client:close"
    assert.is_truthy(#stub:requests() > 0 or is_about_closing or not block.text:find "client:[tf]", "nothing was sent")
  end

  local count = 0
  for _, page in ipairs(PAGES) do
    local first
    for _, block in ipairs(docs.list_blocks(page, "lua")) do
      count = count + 1
      -- on the page of the API all examples continue the first
      local before = page == API and first and first .. "\n" or ""
      first = first or block.text
      it(("runs: %s:%d"):format(page, block.line), function() check(before .. block.text, block) end)
    end
  end

  it("is in the documents", function() assert.is_true(count >= 15) end)
end)

describe("the documents", function()
  local function read_makefile_targets()
    local targets = {}
    for line in files.read "Makefile":gmatch "[^\n]+" do
      local target = line:match "^([%w-]+):[^=]" or line:match "^([%w-]+):$"
      if target then targets[target] = true end
    end
    return targets
  end

  local function list_links(page)
    local links, prose = {}, docs.read_prose(page)
    for target in prose:gmatch "%]%(([^)]+)%)" do links[#links + 1] = target end
    for target in ("\n" .. prose):gmatch "\n%[[^%]]+%]: (%S+)" do links[#links + 1] = target end
    return links
  end

  -- A path from the root of the repository, for one from a page.
  local function resolve(page, path)
    local full = (page:match "^.*/" or "") .. path
    repeat
      local count
      full, count = full:gsub("[^/.]+/%.%./", "")
    until count == 0
    return full
  end

  it("have links that lead somewhere", function()
    local count = 0
    for _, page in ipairs(PAGES) do
      for _, link in ipairs(list_links(page)) do
        if not link:find "^https?://" then
          count = count + 1
          local path, anchor = link:match "^([^#]*)#?(.*)$"
          path = path == "" and page or resolve(page, path)
          assert.is_true(files.exists(path), ("%s links to %s"):format(page, link))
          if anchor ~= "" then
            local anchors = {}
            for _, heading in ipairs(docs.list_headings(path)) do anchors[docs.make_anchor(heading)] = true end
            assert.is_true(anchors[anchor], ("%s links to %s"):format(page, link))
          end
        end
      end
      for link in docs.read_prose(page):gmatch "%[(`[^%]]+`)%][^(:]" do
        assert.matches("\n[" .. link .. "]: ", docs.read_prose(page), 1, true)
      end
    end
    assert.is_true(count > 60)
  end)

  -- Where a file may be that is named without its directory.
  local DIRECTORIES = { "", "docs/", "src/", "lua/icptoken/", "lua/icptoken/gateway/", "examples/", "examples/nginx/" }
  -- Files of the user's machine or of other software.
  local ELSEWHERE = to_set { "error.log", "lua.h", "icp-router.crt", "ca.crt", "nginx.conf", "script.lua" }
  local OURS = "^[.]?%f[%w](%w+)/"
  local ROOTS = to_set { "src", "lua", "spec", "stub", "bench", "examples", "fuzz", "scripts", "types", "rockspecs",
    "docs", "bin", "ci", "github" }

  local function is_there(name)
    for _, directory in ipairs(DIRECTORIES) do
      if files.exists(directory .. name) then return true end
    end
    return false
  end

  it("name files that exist", function()
    local count = 0
    for _, page in ipairs(PAGES) do
      local text = page ~= "CHANGELOG.md" and files.read(page) or "" -- it names files of earlier versions, too
      for word in text:gmatch "[%w_./*-]+" do
        local name = word:gsub("[.]+$", "")
        local is_ours = ROOTS[name:match(OURS) or ""]
        local is_file = name:find "^[%w_-]+%.[ch]$" or name:find "^[%w_-]+%.lua$" or name:find "^[%w_-]+%.md$"
        if is_ours or is_file and not ELSEWHERE[name] then
          count = count + 1
          assert.is_true(is_there(name), ("%s names %s"):format(page, name))
        end
      end
    end
    assert.is_true(count > 100)
  end)

  it("name targets that the Makefile has", function()
    local targets, count = read_makefile_targets(), 0
    for _, page in ipairs(PAGES) do
      for words in files.read(page):gmatch "[`\n&]%s*make ([^`\n#&|]+)" do
        for word in words:gmatch "%S+" do
          if not word:find "=" then
            count = count + 1
            assert.is_true(targets[word], ("%s names make %s"):format(page, word))
          end
        end
      end
    end
    assert.is_true(count > 30)
  end)

  it("name the module's functions and the client's methods", function()
    local icptoken = require "icptoken"
    local client = icptoken.new { host = "localhost", anonymous = true }
    local in_code = { ["icptoken."] = {}, ["client:"] = getmetatable(client).__index }
    for name, value in pairs(icptoken) do
      if type(value) == "function" then in_code["icptoken."][name] = value end
    end
    client:close()
    for owner, functions in pairs(in_code) do
      local in_docs, in_readme = {}, {}
      for _, heading in ipairs(docs.list_headings(API)) do
        local name = heading:match("^" .. owner:gsub("%.", "%%.") .. "([%l_]+)$")
        if name then
          in_docs[name] = true
          assert.matches("%*%*syntax:%*%* %*.-" .. owner:gsub("%.", "%%.") .. name .. "%(",
            docs.read_section(API, heading))
        end
      end
      for name in files.read "README.md":gmatch("| %[`" .. owner:gsub("%.", "%%.") .. "([%l_]+)%(") do
        in_readme[name] = true
      end
      local names = sorted_keys(functions)
      assert.same(names, sorted_keys(in_docs))
      assert.same(names, sorted_keys(in_readme))
      assert.same(names, docs.list_functions(owner:match "%l+", owner:sub(-1)))
    end
  end)

  -- spec/module_spec.lua compares the types with the code.
  local GROUPS = { "Endpoint", "Credential", "Request defaults", "TLS", "Network", "Cache" }

  it("name all options", function()
    local all, shared_with_login = {}, { "password", "username" }
    for _, group in ipairs(GROUPS) do
      for _, name in ipairs(docs.list_row_names(API, group)) do
        all[#all + 1] = name
        if group == "Endpoint" or group == "TLS" or group == "Network" then
          shared_with_login[#shared_with_login + 1] = name
        end
      end
    end
    table.sort(all)
    assert.same(docs.list_types "Options", all)
    local excepted = docs.list_names(docs.read_section(API, "icptoken.login"):match "except (.-)%.")
    assert.equal(2, #excepted)
    local of_login = without(shared_with_login, excepted)
    table.sort(of_login)
    assert.same(docs.list_types "Login", of_login)
  end)

  it("name the fields of a request", function()
    local of_all, of_fetch = {}, {}
    for _, row in ipairs(docs.read_rows(docs.read_section(API, "Requests"))) do
      local accepted_by = docs.list_names(row[2])
      local is_general = #accepted_by == 3
      assert.same(is_general and { "fetch", "fetch_all", "token" } or { "fetch" }, accepted_by)
      for _, name in ipairs(docs.list_names(row[1])) do table.insert(is_general and of_all or of_fetch, name) end
    end
    table.sort(of_all)
    table.sort(of_fetch)
    assert.same(docs.list_types "Request", of_all)
    assert.same(docs.list_types "FetchRequest", of_fetch)
  end)

  it("name the error codes, and what to do about each", function()
    local codes = {}
    for code in files.read "src/failure.h":gmatch 'X%([A-Z_]+, "([a-z_]+)"%)' do codes[#codes + 1] = code end
    table.sort(codes)
    local in_docs = {}
    for _, row in ipairs(docs.read_rows(docs.read_section(API, "Errors"))) do
      if #row == 3 then
        in_docs[#in_docs + 1] = row[1]:match "^`([a-z_]+)`$"
        assert.is_true(row[2] ~= "", row[1])
        assert.is_true(row[3] ~= "" or row[1] == "`no_memory`", row[1])
      end
    end
    table.sort(in_docs)
    assert.same(codes, in_docs)
    assert.same(codes, docs.list_types "Code")
  end)

  it("name the fields of the tables that callers get", function()
    local details = {}
    for _, row in ipairs(docs.read_rows(docs.read_section(API, "Errors"))) do
      if #row == 2 then details[#details + 1] = row[1]:match "^`([a-z_]+)`$" end
    end
    table.sort(details)
    assert.same(docs.list_types "Details", details)
    assert.same(docs.list_types "Stats", docs.list_row_names(API, "client:stats"))
    local timings = docs.read_section(API, "client:stats"):match "\n(| `timings`[^\n]*)"
    assert.same(docs.list_types "Timings", without(docs.list_names(timings), { "timings", "fetch_all" }))
    -- the others exist only if the server sent them
    assert.same(docs.list_row_names(API, "Tokens"), without(docs.list_types "Token", { "issued_at", "refresh_token" }))
  end)

  it("have a spec that runs each example", function()
    for _, page in ipairs(PAGES) do
      for _, block in ipairs(docs.read_blocks(page)) do
        local is_run = block.language == "lua" or block.language == "sh"
          or block.language == "nginx" and page == "docs/gateway.md"
          -- by spec/gateway/fleet_docs_spec.lua
          or (block.language == "nginx" or block.language == "conf") and page == "docs/fleet.md"
          or block.language == "console" -- by spec/command/docs_spec.lua, as the following
          or (block.language == "json" or block.language == "yaml") and page == "docs/command.md"
        assert.is_true(is_run, ("%s:%d is in %s"):format(page, block.line, block.language))
      end
    end
  end)

  it("have lines that fit on a screen", function()
    for _, page in ipairs(PAGES) do
      local number = 0
      for line in files.read(page):gmatch "([^\n]*)\n" do
        number = number + 1
        local _, length = line:gsub("[^\128-\191]", "")
        local may_be_long = page == "CHANGELOG.md" or page ~= "README.md" and line:find "^|"
        assert.is_truthy(length <= 100 or may_be_long, ("%s:%d: %s"):format(page, number, line))
      end
    end
  end)
end)

describe("the picture of the architecture", function()
  local function read_layers()
    local columns, layers = {}, nil
    for line in io.lines "docs/architecture.txt" do
      if line:find "^==" then
        layers = {}
        columns[#columns + 1] = layers
      elseif line:find "^%u.* | " then
        layers[#layers + 1] = {}
        table.insert(layers[#layers], line:match "%[(.-)%]")
      elseif line:find "^  %S" then
        for name in line:gmatch "%S+" do table.insert(layers[#layers], name) end
      end
    end
    return columns
  end

  -- The names of all files, and by name the number of its layer.
  local function list_files(layers)
    local names, layer_of = {}, {}
    for number, layer in ipairs(layers) do
      for _, name in ipairs(layer) do
        names[#names + 1], layer_of[name] = name, number
      end
    end
    table.sort(names)
    return names, layer_of
  end

  local function list_sources(command)
    local names = {}
    for name in run_shell(command):gmatch "[^\n]+" do names[#names + 1] = name end
    table.sort(names)
    return names
  end

  it("shows each file once", function()
    local columns = read_layers()
    assert.same(list_sources "ls src/*.[ch] | sed 's|src/||; s|\\.[ch]$||' | sort -u; echo lua_icptoken.c",
      (list_files(columns[1])))
    assert.same(list_sources "cd lua/icptoken/gateway && ls *.lua | sed 's|\\.lua$||'; echo lua/icptoken/gateway.lua",
      (list_files(columns[2])))
  end)

  it("shows in which direction files of the module include each other", function()
    local names, layer_of = list_files(read_layers()[1])
    local count = 0
    for _, name in ipairs(names) do
      for _, path in ipairs { "src/" .. name .. ".c", "src/" .. name .. ".h", name } do
        local text = files.exists(path) and files.read(path) or ""
        for header in text:gmatch '#include "([^"]+)%.h"' do
          local included = header:gsub("^src/", "")
          count = count + 1
          assert.is_true(layer_of[included] >= layer_of[name], ("%s includes %s.h"):format(path, included))
        end
      end
    end
    assert.is_true(count > 100)
  end)

  it("shows in which direction files of the gateway require each other", function()
    local names, layer_of = list_files(read_layers()[2])
    local count = 0
    for _, name in ipairs(names) do
      local path = files.exists(name) and name or "lua/icptoken/gateway/" .. name .. ".lua"
      for required in files.read(path):gmatch 'require "icptoken%.gateway%.([%w_]+)"' do
        count = count + 1
        assert.is_true(layer_of[required] >= layer_of[name], ("%s requires %s"):format(path, required))
      end
    end
    assert.is_true(count > 50)
  end)

  it("has been drawn from its description", function()
    assert.equal(run_shell("scripts/draw-architecture"),
      files.read "docs/architecture.svg")
  end)
end)
