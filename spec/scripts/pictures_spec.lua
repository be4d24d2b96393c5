-- The pictures of measurements in the documentation: drawing them again changes nothing, they are small, and pages show
-- them.

local docs = require "support.docs"
local files = require "support.files"
local shell = require "support.shell"

local run_shell = shell.run

describe("the pictures of measurements", function()
  local names = {}
  for name in run_shell "ls docs/pictures/*.txt":gmatch "([%w_-]+)%.txt" do names[#names + 1] = name end

  it("exist", function() assert.is_true(#names >= 3) end)

  for _, name in ipairs(names) do
    local picture = "docs/pictures/" .. name .. ".svg"

    it(name .. " is what scripts/draw-pictures draws", function()
      local place = run_shell "mktemp -d":gsub("\n", "")
      files.write(place .. "/picture.txt", files.read("docs/pictures/" .. name .. ".txt"))
      local output = run_shell(("scripts/draw-pictures %s/picture.txt 2>&1"):format(place))
      local drawn = files.read(place .. "/picture.svg")
      run_shell("rm -rf " .. place)
      assert.equal("", output)
      assert.equal(drawn, files.read(picture), "run make pictures")
    end)

    it(name .. " is small, and readable in both colour schemes", function()
      local text = files.read(picture)
      assert.is_true(#text < 100 * 1000)
      assert.matches("@media (prefers-color-scheme: dark)", text, 1, true)
      assert.matches('role="img" aria%-label="%u', text)
      assert.not_matches("nan", text)
      assert.not_matches("%-?inf", text)
    end)

    it(name .. " is shown", function()
      local count = 0
      for _, page in ipairs(docs.list_pages()) do
        count = count + select(2, files.read(page):gsub("!%[[^%]]+%]%(pictures/" .. name .. "%.svg%)", ""))
      end
      assert.equal(1, count)
    end)
  end
end)
