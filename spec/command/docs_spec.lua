-- The documentation of the programs: its examples print what it shows, and its options are those of the help texts, the
-- manual page and the completions.

local cli = require "icptoken.cli"
local cjson = require "cjson"
local command = require "support.command"
local configuration = require "icptoken.cli.configuration"
local console = require "support.console"
local describe_parser = require "icptoken.cli.describe"
local docs = require "support.docs"
local files = require "support.files"
local options = require "icptoken.cli.options"

local PAGE = "docs/command.md"
local REQUEST = [[
{"apiVersion":"credentialprovider.kubelet.k8s.io/v1","kind":"CredentialProviderRequest",
"image":"registry.example.com/default/app:1.0"}
]]
local COMPLETIONS = { "share/bash-completion/completions/icptoken", "share/zsh/site-functions/_icptoken",
  "share/fish/vendor_completions.d/icptoken.fish" }

local stub, bed

setup(function() stub, bed = command.begin() end)
teardown(function() command.finish(stub, bed) end)

-- The long options in a text, sorted, each once.
local function list_options(text)
  local set, names = {}, {}
  for name in text:gmatch "%f[%w-]%-%-(%l[%l-]*)" do set[name] = true end
  for name in pairs(set) do names[#names + 1] = name end
  table.sort(names)
  return names
end

-- In a section of the page, those in the first cells of its tables.
local function list_documented(heading)
  local cells = {}
  for _, row in ipairs(docs.read_rows(docs.read_section(PAGE, heading))) do cells[#cells + 1] = row[1] end
  return list_options(table.concat(cells, " "))
end

local function list_described(parser)
  local names = {}
  for _, row in ipairs(describe_parser.list_options(parser)) do names[#names + 1] = row[1] end
  return list_options(table.concat(names, " "))
end

-- The page of man has "\-" for "-"; options are behind ".B".
local function list_in_manual(heading)
  local text = files.read "share/man/man1/icptoken.1":gsub("\\%-", "-"):gsub("\\&", "")
  local position = assert(text:find("\n" .. heading, 1, true), heading)
  local section = text:sub(position + #heading):match "^(.-)\n%.S[SH]" or text:sub(position)
  local rows = {}
  for row in section:gmatch "\n%.B ([^\n]*)" do rows[#rows + 1] = row end
  return list_options(table.concat(rows, " "))
end

describe("the options of", function()
  local parser, parsers = options.make_parser(cli.commands)

  for _, row in ipairs(cli.commands) do
    local name = row[1]
    it("icptoken " .. name .. " are the same in help, page, manual and completions", function()
      local described = list_described(parsers[name])
      assert.same(described, list_documented(name))
      assert.same(described, list_in_manual(".SS icptoken " .. name))
      local status, help = bed:run { name, "--help" }
      assert.equal(0, status)
      for _, option in ipairs(described) do
        assert.matches("--" .. option, help, 1, true)
        for _, path in ipairs(COMPLETIONS) do
          local text = files.read(path)
          assert.is_truthy(text:find("--" .. option, 1, true) or text:find("-l " .. option, 1, true), path .. " "
            .. option)
        end
      end
      assert.matches("**syntax:** *icptoken " .. name, docs.read_section(PAGE, name), 1, true)
    end)
  end

  it("all commands are the same, too", function()
    local described = list_described(parser)
    assert.same(described, list_documented "Options of all commands")
    assert.same(described, list_in_manual ".SH OPTIONS OF ALL COMMANDS")
  end)
end)

describe("the examples", function()
  for _, page in ipairs { PAGE, "README.md" } do
    it("of " .. page .. " print what it shows", function()
      bed:clear()
      bed:write("request.json", REQUEST)
      local run, count = console.open(bed, stub), 0
      for _, block in ipairs(docs.list_blocks(page, "console")) do
        for _, example in ipairs(console.read(block)) do
          count = count + 1
          local shown = run(example.command)
          assert.equal(console.normalise(example.expected), console.normalise(shown), example.command .. "\n" .. shown)
        end
      end
      assert.is_true(count >= (page == PAGE and 15 or 4), count)
    end)
  end

  it("of the configuration are valid", function()
    local blocks = docs.list_blocks(PAGE, "json")
    assert.equal(1, #blocks)
    local content = configuration.parse("config.json", blocks[1].text)
    assert.equal("id-token", content.registries["registry.example.com"].gateway_user)
  end)

  -- Field by field: there is no YAML parser in the tests.
  it("of the kubelet's configuration fit the plugin", function()
    local blocks = docs.list_blocks(PAGE, "yaml")
    assert.equal(1, #blocks)
    local text = blocks[1].text
    local version = text:match "\n    apiVersion: (%S+)"
    local words = text:match "\n    args:\n      %- (%S+)\n"
    assert.equal("icptoken", text:match "\n  %- name: (%S+)")
    assert.equal("kubelet.config.k8s.io/v1", text:match "^apiVersion: (%S+)")
    bed:clear()
    local env = { ICPTOKEN_CONFIG = bed:configure(command.configuration(stub, ([[,"registries":{
      "%s":{"cluster":"prod","gateway_user":"id-token"}}]]):format(text:match "matchImages:\n      %- (%S+)"))),
      ICPTOKEN_ID_TOKEN_FILE = stub.id_token_file }
    for name in text:gmatch "\n      %- name: (%S+)" do assert.is_string(env[name], name) end
    local status, out, err = bed:run { words, env = env, stdin = cjson.encode { apiVersion = version,
      kind = "CredentialProviderRequest", image = "registry.example.com/default/app" } }
    assert.same({ 0, "" }, { status, err })
    assert.equal(version, cjson.decode(out).apiVersion)
  end)
end)
