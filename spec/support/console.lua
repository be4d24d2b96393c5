-- Runs the examples of the documentation that show a terminal: "$ command" and what it prints. Times, tokens and key
-- ids differ from run to run, so only their form is compared; white space is ignored, so that long lines can be broken.

local files = require "support.files"
local pty = require "support.pty"
local testkit = require "testkit"

local console = {}

-- The name of the stub in the documentation.
local DOCUMENTED = "mycluster.icp:8443"
local FORMS = {
  { "eyJ[%w_.-]+", "<token>" }, { "%d%d%d%d%-%d%d%-%d%d[T ]%d%d:%d%d:%d%d ?[UTCZ]+", "<time>" },
  { "in %d+ %l+", "in <span>" }, { "%d+ %l+ ago", "<span> ago" }, { "in <span>", "<when>" }, { "<span> ago", "<when>" },
  { "[%u2-7][%u2-7][%u2-7][%u2-7]:[%u2-7:]+", "<key>" }, { '"%d+s"', '"<seconds>"' }, { '"expires_in":%d+',
    '"expires_in":<seconds>' }, { ": %d%d%d%d%d%d%d%d%d%d", ": <epoch>" },
  { '": "%x+"', '": "<id>"' }, { "icptoken %d+%.%d+%.%d+", "icptoken <version>" },
}

--- A text in which everything that differs from run to run is normalised, without white space.
function console.normalise(text)
  for _, form in ipairs(FORMS) do text = text:gsub(form[1], form[2]) end
  return (text:gsub("%s+", ""))
end

--- The examples of a block: a list of { command =, expected = }. A line that ends with "\" or "|"
-- goes on.
function console.read(block)
  local examples = {}
  for line in block.text:gmatch "([^\n]*)\n" do
    local text = line:match "^%$ (.*)$"
    local last = examples[#examples]
    if text then
      examples[#examples + 1] = { command = text, expected = "" }
    elseif last and last.expected == "" and last.command:find "[\\|]$" then
      last.command = last.command .. "\n" .. line
    elseif last then
      last.expected = last.expected .. line .. "\n"
    end
  end
  return examples
end

--- Prepares a user's home directory for the examples: programs in $PATH, the stub under the name of a cluster. Returns
-- a function that runs an example's command and returns what the terminal would show.
function console.open(bed, stub)
  for _, program in ipairs { "icptoken", "docker-credential-icptoken" } do
    local words = {}
    for i, word in ipairs(bed:words(program)) do words[i] = "'" .. word .. "'" end
    bed:write("bin/" .. program, "#!/bin/sh\nexec " .. table.concat(words, " ") .. ' "$@"\n', "755")
  end
  os.execute(("mkdir -p '%s'"):format(bed:path "run"))
  os.execute(("cp '%s' '%s'; cp '%s' '%s'"):format(stub.ca, bed:path "ca.crt", stub.token_signing_cert,
    bed:path "root-cert.pem"))
  local env = bed:environment { PATH = bed:path "bin" .. ":" .. os.getenv "PATH", LC_ALL = "C.UTF-8",
    XDG_RUNTIME_DIR = bed:path "run", ICPTOKEN_PORT = tostring(stub.port), ICPTOKEN_RESOLVE =
      ("mycluster.icp:%d:127.0.0.1"):format(stub.port) }

  return function(line)
    os.remove(bed:path "shown")
    local words = { "bash", "-c", "cd; " .. line .. "\n", env = env, stdout = bed:path "shown" }
    words.stderr = words.stdout
    local terminal, shown = pty.open(), ""
    local pid = terminal:spawn(words)
    if line:find "login %-u" and not line:find "%-%-password%-stdin" then
      shown = terminal:await "Password of ":match "Password of.*$" .. "\n"
      terminal:await_echo(false)
      terminal:type(stub.password .. "\n")
    end
    testkit.waitpid(pid, 300)
    terminal:close()
    local text = files.read(bed:path "shown")
    if shown ~= "" then text = ("Password of %s at %s: \n"):format(stub.username, DOCUMENTED) .. text end
    text = text:gsub("mycluster%.icp:" .. stub.port, (DOCUMENTED:gsub("%%", "%%%%")))
    text = text:gsub(bed:path "run":gsub("%p", "%%%0"), "/run/user/1000")
    return (text:gsub(bed.home:gsub("%p", "%%%0"), "/home/you"))
  end
end

return console
