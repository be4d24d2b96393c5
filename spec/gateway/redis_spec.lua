-- The part of a gateway that runs scripts on Redis: with real servers, with servers that fail in all ways, and with
-- servers that are not Redis.

local files = require "support.files"
local gateway_bed = require "support.gateway_bed"
local hostile_redis = require "support.hostile_redis"
local redis = require "support.redis"
local redis_bed = require "support.redis_bed"

local ECHO, SWAP = redis_bed.ECHO, redis_bed.SWAP
local null = require "cjson".null

local RESULTS = { "ok", "connect", "tls", "timeout", "closed", "protocol", "refused", "sentinel" }

-- More memory than nginx may use for replies, and far less than is sent.
local MAX_GROWTH = 48 * 1024 * 1024

describe("a Redis of a fleet", function()
  local bed, server, hostile

  setup(function() bed = redis_bed.open() end)
  teardown(function() redis_bed.close(bed) end)
  after_each(function()
    if server then server:stop() end
    if hostile then hostile:stop() end
    server, hostile = nil, nil
  end)

  -- The peak of the worker's memory, in bytes.
  local function read_peak()
    local pid = gateway_bed.await_workers(bed.server, 1)[1]
    return pid, tonumber(files.read(("/proc/%d/status"):format(pid)):match "VmHWM:%s*(%d+) kB") * 1024
  end

  -- How many exchanges with these options had each result.
  local function count_all(options)
    local counts = {}
    for _, result in ipairs(RESULTS) do counts[result] = bed:count(options, result) end
    return counts
  end

  for _, program in ipairs(redis.list_programs()) do
    describe("that is " .. program, function()
      before_each(function() server = redis.start { program = program } end)

      it("runs scripts", function()
        local options = bed:make_options(server.port)
        assert.equal("hello", bed:echo(options, "hello"))
        assert.equal("", bed:echo(options, ""))
        assert.equal("\r\n$1\0", bed:echo(options, "\r\n$1\0"))
        local replies = bed:run(options, { { SWAP, 1, "a", "1" }, { SWAP, 1, "a", "2" },
          { "return { 1, 'x', false, {} }", 0 }, { "return redis.status_reply('fine')", 0 } })[1].replies
        assert.same({ null, "1", { 1, "x", null, {} }, "fine" }, replies)
      end)

      it("gets the text of a script once, and again if it has forgotten it", function()
        local options = bed:make_options(server.port)
        for _ = 1, 2 do
          for i = 1, 3 do assert.equal(tostring(i), bed:echo(options, i)) end
          local replies = bed:run(options, { { ECHO, 0, "a" }, { ECHO, 0, "b" }, { SWAP, 1, "k", "c" } })[1].replies
          assert.same({ "a", "b" }, { replies[1], replies[2] })
          server:command("SCRIPT", "FLUSH")
        end
        local stats = server:command("INFO", "commandstats")
        -- EVAL: ECHO and SWAP, before and after they were forgotten
        assert.equal("4", stats:match "cmdstat_eval:calls=(%d+)")
        assert.equal("12", stats:match "cmdstat_evalsha:calls=(%d+)")
      end)

      it("returns other replies if one script fails", function()
        local results = bed:run(bed:make_options(server.port),
          { { ECHO, 0, "a" }, { "return redis.call('nosuch')", 0 }, { ECHO, 0, "b" } })
        assert.same({ "a", false, "b" }, results[1].replies)
      end)

      it("runs more scripts than fit into one pipeline", function()
        local calls = {}
        for i = 1, 600 do calls[i] = { ECHO, 0, "reply " .. i } end
        local replies = bed:run(bed:make_options(server.port), calls)[1].replies
        assert.equal(600, #replies)
        for i, reply in ipairs(replies) do assert.equal("reply " .. i, reply) end
      end)

      it("returns texts up to the limit", function()
        local options = bed:make_options(server.port)
        local longest = ("x"):rep(65536)
        assert.equal(longest, bed:echo(options, longest))
        local reply, problem = bed:echo(options, longest .. "x")
        assert.is_nil(reply)
        assert.matches("too large", problem)
        assert.equal("after", bed:echo(options, "after"))
      end)

      it("keeps its connections", function()
        local options = bed:make_options(server.port)
        local function count() -- those of this function included
          return tonumber(server:command("INFO", "stats"):match "total_connections_received:(%d+)")
        end
        local before = count()
        for i = 1, 20 do assert.equal(tostring(i), bed:echo(options, i)) end
        assert.equal(1, count() - before - 1)
      end)
    end)
  end

  describe("that fails", function()
    -- The results that exchanges with these options have had since then.
    local function list_new(options, before)
      local new = {}
      for result, count in pairs(count_all(options)) do new[result] = count > before[result] or nil end
      return new
    end

    -- Checks that Redis fails for these options after the breaker was closed, and works again after `back`. The log
    -- gets one line each time. call: the script that is run, and its arguments.
    local function check(options, kind, words, back, call)
      local place = "at " .. options.redis:match "//(.*)$"
      local before = count_all(options)
      local results = bed:run(options, { call or { SWAP, 1, "a", "1" } }, 8)
      for i, result in ipairs(results) do
        assert.is_true(not result.replies or not result.replies[1], i)
        assert.is_false(result.is_late, i)
      end
      -- the breaker is open
      assert.is_nil(results[8].replies)
      assert.equal("Redis is not used, as it has failed", results[8].problem)
      assert.same({ [kind] = true }, list_new(options, before))
      assert.is_false(bed:is_available(options))
      local lines = bed:list_lines(place)
      assert.equal(1, #lines, table.concat(lines, "\n"))
      assert.matches("^error: Redis " .. place .. " cannot be used: ", lines[1])
      assert.matches(words, lines[1], 1, true)
      if not back then return end
      back()
      gateway_bed.await("Redis to be used again", function() return bed:is_available(options) end)
      assert.equal("again", bed:echo(options, "again"))
      lines = bed:list_lines(place)
      assert.equal(2, #lines, table.concat(lines, "\n"))
      assert.matches("^notice: Redis " .. place .. " answers again: ", lines[2])
    end

    -- Starts a Redis that works. Returns its options.
    local function start(options, fields)
      server = redis.start(options)
      local fleet = bed:make_options(server.port, fields)
      assert.equal("works", bed:echo(fleet, "works"))
      return fleet
    end

    it("because it was stopped", function()
      local options = start()
      server:kill()
      check(options, "connect", "cannot connect (connection refused)", function() server:launch() end)
    end)

    it("because it is paused", function()
      -- a second more than a busy machine may pause it when it is to answer
      local options = start(nil, { timeout = 2, connect_timeout = 2 })
      server:pause()
      check(options, "timeout", "no answer in time", function() server:resume() end)
    end)

    -- On a busy machine a SYN can get lost, even of this machine, so connecting may take a second or longer.
    local SHORT = { timeout = 0.1, connect_timeout = 5 }

    it("because it accepts connections and never answers", function()
      hostile = hostile_redis.start "silent"
      check(bed:make_options(hostile.port, SHORT), "timeout", "no answer in time")
    end)

    it("because it takes longer than the limit for an answer, byte by byte", function()
      hostile = hostile_redis.start "dripping"
      check(bed:make_options(hostile.port, SHORT), "timeout", "no answer in time")
    end)

    it("because its memory is full", function()
      local options = start()
      server:command("CONFIG", "SET", "maxmemory", "1")
      check(options, "refused", "its memory is full: raise maxmemory, or set maxmemory-policy to volatile-ttl (OOM)",
        function() server:command("CONFIG", "SET", "maxmemory", "0") end)
    end)

    it("because it is a replica", function()
      local options = start()
      local master = redis.start()
      finally(function() master:stop() end)
      server:command("REPLICAOF", "127.0.0.1", master.port)
      gateway_bed.await("the replica to be in step", function()
        return server:command("INFO", "replication"):find "master_link_status:up"
      end)
      check(options, "refused", "it is a replica that cannot be written to (READONLY)",
        function() server:command("REPLICAOF", "NO", "ONE") end)
    end)

    it("because it is loading its data", function()
      local options = start { config = "loading-process-events-interval-bytes 1024" }
      server:command("EVAL", "for i = 1, 5000 do redis.call('set', i, ('x'):rep(2048)) end", 0)
      server:command "SAVE"
      server:kill()
      -- it stays so until the spec has its delay set to 0
      files.write(server.dir .. "/redis.conf", files.read(server.dir .. "/redis.conf") .. "key-load-delay 10000\n")
      server:launch()
      check(options, "refused", "it is still loading its data (LOADING)",
        function() server:command("CONFIG", "SET", "key-load-delay", "0") end)
    end)

    it("because its password was changed", function()
      local options = start({ users = "user default on >first ~* +@all\n" },
        { password_file = bed:write_private "first\n" })
      server:command("ACL", "SETUSER", "default", "resetpass", ">second")
      server:command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
      check(options, "refused", "the user name or the password is wrong (WRONGPASS)",
        function() server:command("ACL", "SETUSER", "default", "resetpass", ">first") end)
    end)

    -- Redis refuses longer commands of a client that has not authenticated with another error
    for size, call in pairs { short = { SWAP, 1, "a", "1" }, long = { SWAP, 1, "a", ("x"):rep(20000) },
      ["of many words"] = { SWAP, 1, "a", 1, 2, 3, 4, 5, 6, 7, 8, 9 } } do
      it("because it requires a password, and the command is " .. size, function()
        local options = start()
        server:command("ACL", "SETUSER", "default", "resetpass", ">second")
        server:command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
        check(options, "refused", "it requires a password: set 'password_file' (NOAUTH)",
          function() server:command("ACL", "SETUSER", "default", "nopass") end, call)
      end)
    end

    it("because its user lacks a right", function()
      local options = start()
      server:command("ACL", "SETUSER", "default", "-evalsha")
      check(options, "refused", "the user lacks a right: docs/fleet.md lists those that are needed",
        function() server:command("ACL", "SETUSER", "default", "+evalsha") end)
    end)
  end)

  describe("that is another server", function()
    it("works with the control of these specs", function()
      hostile = hostile_redis.start "good"
      assert.equal("ok", bed:echo(bed:make_options(hostile.port), "x"))
    end)

    for _, behaviour in ipairs(hostile_redis.list()) do
      it("fails and costs little memory: " .. behaviour, function()
        hostile = hostile_redis.start(behaviour)
        local options = bed:make_options(hostile.port)
        local pid, before = read_peak()
        for _ = 1, 2 do
          local reply, problem = bed:echo(options, "x")
          assert.is_true(not reply, reply)
          assert.is_true(reply == false or problem:find "^[\32-\126]+$" ~= nil)
        end
        -- each failed because of the answer, or of the end of the connection after it
        local judged = 0
        for _, result in ipairs { "protocol", "closed", "refused" } do
          judged = judged + bed:count(options, result)
        end
        assert.equal(2, judged)
        local pid_after, after = read_peak()
        assert.equal(pid, pid_after)
        assert.is_true(after - before < MAX_GROWTH, after - before)
        assert.same({}, bed:list_lines "internal error")
        -- the connections are not reused
        assert.equal(2, #hostile:await_connections(2))
      end)
    end
  end)
end)
