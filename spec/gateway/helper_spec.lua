-- Real clients with icptoken as their credential helper: after `icptoken configure`, each logs in, pushes and pulls
-- through the gateway to a real registry, and logs out. No password and no ID token is in any of its files, or in the
-- arguments or the environment of any process that it starts, which strace writes down. Needs root; #deep, as these
-- programs are not what a contributor has.

local clients = require "support.clients"
local command = require "support.command"
local files = require "support.files"
local mime = require "mime"
local registry_bed = require "support.registry_bed"

local cjson = require "cjson"

local PASSWORD = "pa55w0rd-of-the-clients"
local MAX_STRING = "1000000"

local bed, programs

-- The programs in $PATH, on the runtime of the specs.
local function install_programs()
  for _, program in ipairs { "docker-credential-icptoken", "icptoken" } do
    local words = programs:words(program)
    programs:write("bin/" .. program, ("#!/bin/sh\nexec '%s' '%s' \"$@\"\n"):format(words[1], words[2]), "755")
  end
end

setup(function()
  bed = registry_bed.open()
  programs = command.open()
  install_programs()
end)
teardown(function()
  if programs then programs:close() end
  registry_bed.close(bed)
end)

-- A kit whose program finds the helper, and has its files where a user has them.
local function make_kit(row)
  local kit = clients.new_kit(bed, row)
  for name, value in pairs(programs:environment { TMPDIR = kit:make_directory "tmp",
    XDG_RUNTIME_DIR = kit:make_directory "run", PATH = programs:path "bin" .. ":" .. kit.env.PATH }) do
    if name ~= "HOME" then kit.env[name] = value end
  end
  kit.calls = bed:make_directory("calls-" .. row.name:gsub("%W", "-")) .. "/calls"
  kit.wrapper = { "strace", "-f", "-qq", "-e", "trace=execve,execveat", "-e", "signal=none", "-v", "-s", MAX_STRING,
    "--output-append-mode", "-o", kit.calls }
  return kit
end

local function read_session(kit)
  local path = command.shell(("ls '%s'/.local/state/icptoken/*.json"):format(kit.directory)):match "[^\n]+"
  return cjson.decode(files.read(path))
end

-- Base64 of a secret as it is inside of base64 of a longer text, wherever it begins there.
local function add_encoded(patterns, secret)
  for skipped = 0, 2 do
    patterns[#patterns + 1] = mime.b64(("x"):rep(skipped) .. secret):gsub("=+$", ""):sub(5, -5)
  end
end

local function list_patterns(secrets)
  local patterns = {}
  for _, secret in ipairs(secrets) do
    patterns[#patterns + 1] = secret
    add_encoded(patterns, secret)
  end
  return patterns
end

local function assert_no_secret(kit, secrets)
  local patterns = bed.directory .. "/patterns"
  files.write(patterns, table.concat(list_patterns(secrets), "\n") .. "\n")
  local find = "cd '%s' && find . -path ./.local/state/icptoken -prune -o -type f -exec grep -laF -f '%s' {} +"
  assert.equal("", command.shell(find:format(kit.directory, patterns)))
  -- they would be found there if they were in another file
  assert.matches("json", command.shell(("cd '%s/.local/state/icptoken' && grep -laF -f '%s' *"):format(kit.directory,
    patterns)), 1, true)
  local calls = files.read(kit.calls)
  for _, words in ipairs { 'docker-credential-icptoken", "get"', 'docker-credential-icptoken", "store"',
    '"HOME=' .. kit.directory } do assert.is_truthy(calls:find(words, 1, true), words .. " was not traced") end
  assert.equal("", command.shell(("grep -F -f '%s' '%s' | cut -c 1-300"):format(patterns, kit.calls)))
  local processes = "for file in /proc/[0-9]*/cmdline /proc/[0-9]*/environ; do "
    .. "grep -laF -f '%s' $file 2>/dev/null; done"
  assert.equal("", command.shell(processes:format(patterns)))
end

local function assert_pushed(repository)
  local answer = registry_bed.ask(bed.gates.basic, "GET", "/v2/" .. repository .. "/manifests/1",
    registry_bed.to_basic("admin", PASSWORD))
  assert.equal(200, answer.status, answer.body)
end

for _, row in ipairs(clients.HELPED) do
  local lack, is_packaged = clients.describe_lack(row)

  describe(row.name .. " #deep", function()
    if lack then
      it("is tried", function()
        if is_packaged then error(lack .. "; scripts/setup test-deep installs it", 0) end
        pending("is not tried, for " .. lack)
      end)
      return
    end

    local kit, stop

    setup(function()
      kit = make_kit(row)
      if row.start then stop = row.start(kit) end
    end)

    teardown(function()
      if stop then stop() end
    end)

    local function succeed(step, ...)
      local ok, output = step(kit, ...)
      if not ok then error("the program failed:\n" .. output, 2) end
      return output
    end

    -- A user's home in which only the cluster is known.
    local function begin()
      bed:forget()
      bed.stub:set { users = { admin = PASSWORD } }
      os.execute(("cd '%s' && rm -rf .docker .config .local run/*"):format(kit.directory))
      files.write(kit.calls, "")
      os.execute(("mkdir -p '%s/.config/icptoken'"):format(kit.directory))
      files.write(kit.directory .. "/.config/icptoken/config.json", command.configuration(bed.stub))
      kit:renew_image()
    end

    for _, challenge in ipairs(registry_bed.CHALLENGES) do
      it("logs in, pushes, pulls and logs out, with challenge = " .. challenge, function()
        local address = "127.0.0.1:" .. bed.gates[challenge].port
        local repository = ("%s/%s"):format(row.name:gsub("%W+", "-"):lower(), challenge)
        local name, log_in = ("%s/%s:1"):format(address, repository), row.log_in or row.keep_login
        begin()
        succeed(kit.run, "icptoken", "configure", address, "--cluster", "prod", "--gateway-user", "id-token")
        succeed(row.store, name)
        assert.is_false((row.push(kit, name)))
        assert.is_false((log_in(kit, address, "wrong", "admin")))
        assert.is_false((kit:run("icptoken", "whoami")))

        succeed(log_in, address, PASSWORD, "admin")
        succeed(row.push, name)
        assert_pushed(repository)
        succeed(row.forget)
        succeed(row.pull, name)
        local session = read_session(kit)
        assert_no_secret(kit, { PASSWORD, session.id_token, session.refresh_token })

        if row.log_out then
          succeed(row.log_out, address)
          assert.is_false((kit:run("icptoken", "whoami")))
          succeed(row.forget)
          assert.is_false((row.pull(kit, name)))
        end
      end)
    end

    if row.takes_token ~= nil then
      it(row.takes_token and "pushes and pulls with the token of docker-config, without a helper"
        or "does not use the token of docker-config, as that says", function()
        local repository = row.name:gsub("%W+", "-"):lower() .. "/direct"
        local name = ("%s/%s:1"):format(bed.registry.address, repository)
        begin()
        succeed(kit.run_with_input, PASSWORD, "icptoken", "login", "-u", "admin", "--password-stdin")
        local served, others = succeed(kit.run, "icptoken", "docker-config", bed.registry.address, "--scope",
          ("repository:%s:pull,push"):format(repository)):match "\nIt works for ([^.]*)%.(.*)"
        assert.matches(row.programs[#row.programs], (row.takes_token and served or others):lower(), 1, true)
        succeed(row.store, name)
        assert.equal(row.takes_token, (row.push(kit, name)))
        if row.takes_token then
          assert_pushed(repository)
          succeed(row.forget)
          succeed(row.pull, name)
        end
      end)
    end
  end)
end
