-- icptoken login, logout and whoami, the sessions that they keep, and the terminal.

local cjson = require "cjson"
local command = require "support.command"
local kills = require "support.kills"
local pty = require "support.pty"
local testkit = require "testkit"

local LOGIN_PATH = "/idprovider/v1/auth/identitytoken"
local PASSWORD = "pa55 w0rd&%+:"

local stub, bed, session_file

setup(function()
  stub, bed = command.begin()
  session_file = (".local/state/icptoken/localhost_%d.json"):format(stub.port)
end)
teardown(function() command.finish(stub, bed) end)
before_each(function()
  command.reset(stub, bed, "")
  stub:set { users = { admin = PASSWORD, eve = "other" } }
end)

local function log_in(...)
  return bed:run { "login", "-u", "admin", "--password-stdin", stdin = PASSWORD .. "\n", ... }
end

local function count_logins()
  return stub:count(LOGIN_PATH)
end

local function assert_fails(words, ...)
  local status, out, err = bed:run { ... }
  assert.same({ 1, "" }, { status, out }, err)
  assert.matches(words, err, 1, true)
  assert.not_matches("%.lua:%d", err)
  return err
end

describe("icptoken login #short", function()
  it("keeps a session that later commands use, and no password", function()
    local status, out, err = log_in()
    assert.same({ 0, "" }, { status, err })
    assert.matches("admin", out, 1, true)
    assert.equal("600 700\n", command.shell(("echo $(stat -c %%a '%s' '%s')"):format(bed:path(session_file),
      bed:path ".local/state/icptoken")))
    assert.matches("^eyJ", select(2, bed:run { "token", "a" }))
    assert.equal(1, count_logins())
    local all = command.shell("cat $(find '" .. bed.home .. "' -type f)")
    assert.not_matches("pa55", all, 1, true)
    assert.not_matches("pa55", out, 1, true)
    local kept = cjson.decode(bed:read(session_file))
    assert.equal("admin", kept.username)
    assert.is_string(kept.refresh_token)
    assert.is_nil(kept.password)
  end)

  it("reports the identity provider's message for a wrong password, and keeps nothing", function()
    local status, out, err = bed:run { "login", "-u", "admin", "--password-stdin", stdin = "wr0ng\n" }
    assert.same({ 1, "" }, { status, out })
    assert.matches("401", err, 1, true)
    assert.not_matches("wr0ng", err, 1, true)
    assert.is_nil(bed:read(session_file))
    assert.equal(1, count_logins())
  end)

  it("does not send an empty password", function()
    for _, input in ipairs { "", "\n", "\r\n" } do
      assert.equal(1, (bed:run { "login", "-u", "admin", "--password-stdin", stdin = input }))
    end
    assert.equal(0, count_logins())
  end)

  it("keeps an ID token that the user passes", function()
    local status, out = bed:run { "login", "--id-token-file", "-", stdin = "ID token:  " .. stub.id_token .. "\n" }
    assert.equal(0, status)
    assert.matches("admin", out, 1, true)
    assert.matches("^eyJ", select(2, bed:run { "token", "a" }))
  end)

  it("is done once by simultaneous processes", function()
    stub:plan { path = LOGIN_PATH, delay = { before = 0.5 } }
    local processes = {}
    for i = 1, 16 do
      processes[i] = bed:start { "login", "-u", "admin", "--password-stdin", stdin = PASSWORD }
    end
    for i = 1, 16 do assert.equal(0, (bed:finish(processes[i]))) end
    -- a process that starts after another has finished logs in again, as requested
    assert.is_true(count_logins() < 16)
  end)

  it("is not blocked after a process that was logging in was killed", function()
    stub:plan { path = LOGIN_PATH, delay = { before = 100 } }
    local process = bed:start { "login", "-u", "admin", "--password-stdin", stdin = PASSWORD }
    local deadline = testkit.monotonic() + 60
    repeat testkit.sleep(0.01) until count_logins() == 1 or testkit.monotonic() > deadline
    testkit.kill(process.pid, "KILL")
    bed:finish(process)
    assert.equal(0, (log_in()))
  end)
end)

describe("icptoken whoami and logout #short", function()
  it("show who is logged in and until when, and end the session", function()
    assert_fails("icptoken login --cluster prod", "whoami")
    log_in()
    local status, out = bed:run { "whoami" }
    assert.equal(0, status)
    assert.matches("^admin at localhost:%d+ %(prod%); the session expires in 11 h %(%d+%-%d+%-%d+ [%d:]+ UTC%)\n$", out)
    local report = cjson.decode((select(2, bed:run { "whoami", "--json" })))
    assert.equal("admin", report.username)
    assert.equal("prod", report.cluster)
    assert.is_true(report.expires_in > 43000)
    assert.equal(0, (bed:run { "logout" }))
    assert.is_nil(bed:read(session_file))
    assert_fails("nobody is logged in", "whoami")
    assert.equal(0, (bed:run { "logout" }))
  end)

  it("report a session that has expired", function()
    stub:set { id_token_expires_in = 30 }
    log_in()
    assert_fails("expired", "whoami")
    assert_fails("icptoken login --cluster prod", "token", "a")
  end)
end)

describe("a session #short", function()
  local function damage(text, mode)
    bed:write(session_file, text, mode or "600")
    command.shell("chmod 700 '" .. bed:path ".local/state/icptoken" .. "'")
  end

  it("with another mode is not used", function()
    log_in()
    for _, mode in ipairs { "640", "604", "660", "400", "700", "4600" } do
      command.shell(("chmod %s '%s'"):format(mode, bed:path(session_file)))
      if mode ~= "4600" then assert_fails(mode, "token", "a") end
    end
    command.shell(("chmod 600 '%s'"):format(bed:path(session_file)))
    command.shell(("chmod 755 '%s'"):format(bed:path ".local/state/icptoken"))
    assert_fails("755", "token", "a")
    local status, _, err = log_in()
    assert.equal(1, status)
    assert.matches("755", err, 1, true)
  end)

  it("of another user, or that is not a regular file, is not used", function()
    log_in()
    local path = bed:path(session_file)
    if command.shell "id -u" == "0\n" then
      command.shell(("chown 1 '%s'"):format(path))
      assert_fails("another user", "token", "a")
    end
    command.shell(("mv '%s' '%s.real'; ln -s '%s.real' '%s'"):format(path, path, path, path))
    assert_fails("not a file", "token", "a")
    command.shell(("rm '%s'; mkdir '%s'; chmod 600 '%s'"):format(path, path, path))
    assert_fails("not a file", "token", "a")
    command.shell(("rmdir '%s'; mkfifo -m 600 '%s'"):format(path, path))
    assert_fails("not a file", "token", "a")
  end)

  it("that is damaged is reported as such", function()
    for _, text in ipairs { "", "{", "[]", "null", "\0\255", '{"id_token":1}', '{"id_token":"a\\r\\nb"}',
      ("["):rep(50000),
      '{"id_token":"abc"}', '{"endpoint":"elsewhere:8443","id_token":"abc"}', '{"id_token":"abc","expires_at":"soon"}',
      '{"id_token":"abc","username":"\\u001b[2J"}', (" "):rep(2 * 1024 * 1024) } do
      damage(text)
      local status, out, err = bed:run { "token", "a" }
      assert.same({ 1, "" }, { status, out })
      assert.matches("icptoken login", err, 1, true)
      assert.not_matches("[%z\1-\9\11-\31]", err)
      assert.not_matches("%.lua:%d", err)
      assert.equal(0, #stub:requests())
    end
  end)

  it("is never sent to another cluster of the same name", function()
    log_in()
    bed:configure(command.configuration(stub):gsub('"localhost"', '"127.0.0.1"'))
    assert_fails("nobody is logged in at 127.0.0.1", "token", "a")
  end)

  it("is the old or the new one if a login is killed at any system call #deep", function()
    local input, seen = bed:path "in", {}
    local killed = kills.at_every_call({ words = bed:words("icptoken", "login", "--id-token-file", "-"),
      env = bed:environment(), stdin = input, prepare = function()
        bed:clear()
        bed:configure(command.configuration(stub))
        damage(('{"endpoint":"localhost:%d","username":"old","id_token":"abc"}'):format(stub.port))
        bed:write("in", stub.id_token)
      end }, function(call, number)
        local status, out, err = bed:run { "whoami" }
        assert.equal(0, status, ("killed at %s number %d: %s"):format(call, number, err))
        local name = out:match "^%a+"
        assert.is_true(name == "old" or name == "admin", out)
        seen[name] = true
      end)
    assert.is_true(killed > 200, "killed " .. killed .. " times")
    assert.is_true(seen.old and seen.admin)
  end)

  it("is kept in $XDG_STATE_HOME", function()
    assert.equal(0, (bed:run { "login", "-u", "admin", "--password-stdin", stdin = PASSWORD,
      env = { XDG_STATE_HOME = bed:path "state" } }))
    assert.is_string(bed:read(("state/icptoken/localhost_%d.json"):format(stub.port)))
  end)
end)

describe("a password at the terminal #short", function()
  local terminal

  before_each(function() terminal = pty.open() end)
  after_each(function() terminal:close() end)

  local function start(...)
    local words = bed:words("icptoken", ...)
    words.env = bed:environment()
    words.stdout, words.stderr = bed:path "out", bed:path "err"
    return terminal:spawn(words)
  end

  local function assert_ends(pid, how, status)
    assert.same({ how, status }, { testkit.waitpid(pid, 60) }, bed:read "err")
  end

  it("is asked for without an echo, and used to log in", function()
    local pid = start "login"
    terminal:await "User name at localhost"
    assert.is_true(terminal:echoes())
    terminal:type "admin\n"
    terminal:await "Password of admin"
    terminal:await_echo(false)
    terminal:type(PASSWORD .. "\n")
    assert_ends(pid, "exited", 0)
    assert.is_true(terminal:echoes())
    terminal:type "\n"
    assert.not_matches("pa55", terminal:await "\n", 1, true)
    assert.matches("Logged in", bed:read "out", 1, true)
  end)

  it("is asked for by token if there is no session, and only the token goes to standard output", function()
    local pid = start("token", "a")
    terminal:await "User name"
    terminal:type "admin\n"
    terminal:await "Password"
    terminal:await_echo(false)
    terminal:type(PASSWORD .. "\n")
    assert_ends(pid, "exited", 0)
    assert.matches("^eyJ[%w_.-]+\n$", bed:read "out")
    assert.is_string(bed:read(session_file))
  end)

  for key, signal in pairs { ["\3"] = 2, ["\28"] = 3 } do
    it("does not change the terminal at signal " .. signal .. " from the keyboard", function()
      local pid = start("login", "-u", "admin")
      terminal:await "Password"
      terminal:await_echo(false)
      terminal:type(key)
      assert_ends(pid, "killed", signal)
      assert.is_true(terminal:echoes())
      assert.equal("", bed:read "err")
      assert.equal(0, #stub:requests())
    end)
  end

  for name, number in pairs { TERM = 15, HUP = 1 } do
    it("does not change the terminal at SIG" .. name, function()
      local pid = start("login", "-u", "admin")
      terminal:await "Password"
      terminal:await_echo(false)
      testkit.kill(pid, name)
      assert_ends(pid, "killed", number)
      assert.is_true(terminal:echoes())
    end)
  end

  it("ends at Ctrl-C while the name is asked for, and at the end of the input", function()
    local pid = start "login"
    terminal:await "User name"
    terminal:type "\3"
    assert_ends(pid, "killed", 2)
    pid = start("login", "-u", "admin")
    terminal:await "Password"
    terminal:await_echo(false)
    terminal:type "\4"
    assert_ends(pid, "exited", 1)
    assert.matches("no password was given", bed:read "err", 1, true)
    assert.is_true(terminal:echoes())
  end)
end)
