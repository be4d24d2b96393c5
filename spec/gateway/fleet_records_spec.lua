-- The records in Redis: they reveal nothing to a reader, and a gateway does not accept a record that was changed.

local cjson = require "cjson"
local files = require "support.files"
local fleet_bed = require "support.fleet_bed"
local gateway_bed = require "support.gateway_bed"
local gateway_probe = require "support.gateway_probe"
local load = require "support.load"
local mime = require "mime"

local OTHER_SECRET = ("t"):rep(42) .. "o="
local PASSWORD = "Basic " .. (mime.b64 "admin:admin")

-- POST /open opens the token of repository `name` and the request's credential in a value, the body, with the gateway's
-- own code, but under another key, name or secret, or changed. Answers with what opened.
local OPEN = [[
    location = /open {
      content_by_lua_block {
        local records = require "icptoken.gateway.fleet_records"
        local key = require "icptoken.gateway.key"
        ngx.req.read_body()
        local value = ngx.decode_base64(ngx.req.get_body_data())
        local scopes = "repository:" .. ngx.var.arg_name .. ":pull"
        local secret = gateway.settings.fleet.secret
        local function open(secret, text, name_scopes, key_scopes, changed)
          local base = gateway.token_bases.bearer
          local reader = records.new(secret)
          local names = reader:make_names(key.compute(base, text, 8, name_scopes))
          return reader:open_token(names.token, key.compute(base, text, 8, key_scopes), changed or value) ~= nil
        end
        local text = ngx.var.http_authorization
        local function count_opened(change)
          local opened = 0
          for i = 1, #value do
            if open(secret, text, scopes, scopes, change(i)) then opened = opened + 1 end
          end
          return opened
        end
        local flipped = 0
        for bit_number = 0, 7 do
          flipped = flipped + count_opened(function(i)
            local byte = string.char(bit.bxor(value:byte(i), 2 ^ bit_number))
            return value:sub(1, i - 1) .. byte .. value:sub(i + 1)
          end)
        end
        ngx.print(require "cjson".encode {
          itself = open(secret, text, scopes, scopes),
          credential = open(secret, text .. "x", scopes, scopes),
          name = open(secret, text, scopes .. "x", scopes),
          key = open(secret, text, scopes, scopes .. "x"),
          secret = open(("u"):rep(32), text, scopes, scopes),
          flipped = flipped,
          truncated = count_opened(function(i) return value:sub(1, i - 1) end),
          lengthened = open(secret, text, scopes, scopes, value .. "\0"),
          local_key = ngx.encode_base64(key.compute(gateway.token_bases.bearer, text, 8, scopes)),
          names = records.new(secret):make_names(key.compute(gateway.token_bases.bearer, text, 8, scopes)),
        })
      }
    }
]]

-- /later makes the gateway take the cluster's clock to be a minute later than before.
local LATER = [[
    location = /later {
      content_by_lua_block {
        local dict, name = ngx.shared.icptoken, "o" .. gateway.settings.target.key
        dict:set(name, dict:get(name) + 60)
      }
    }
]]

-- /forget makes the gateway drop rejected tokens of a key that it has just dropped one of. /held?length= answers with
-- the verdict on a lease whose owner is so long.
local OTHERS = [[
    location = /forget {
      content_by_lua_block {
        local dict = ngx.shared.icptoken
        for _, name in ipairs(dict:get_keys(0)) do
          if #name == 33 and name:sub(1, 1) == "d" then dict:delete(name) end
        end
      }
    }
    location = /held {
      content_by_lua_block {
        local owner = ("x"):rep(tonumber(ngx.var.arg_length))
        ngx.print(gateway.flights.fleet.replies:read({}, { "held", owner }, 0).kind)
      }
    }
]]

local bed, server

setup(function()
  bed = fleet_bed.open()
  server = bed:start { locations = gateway_probe.LOCATIONS .. OPEN .. LATER .. OTHERS }
end)
teardown(function() fleet_bed.close(bed) end)
before_each(function()
  bed.stub:reset()
  bed.redis:command "FLUSHALL"
  load.perform(server.port, { target = "/empty" })
end)

local function fetch(name, headers)
  local answer = load.request(server.port, bed:request(name, headers))
  assert.equal(200, answer.status)
  return gateway_bed.read_echo(answer).headers.authorization
end

local function ask_to_open(name, value)
  local answer = load.request(server.port, { target = "/open?name=" .. name, method = "POST", body = mime.b64(value),
    headers = { Authorization = bed.credential } })
  return cjson.decode(answer.body)
end

-- The name and the value of the only token of that repository in Redis.
local function find_token(name)
  bed:await_no_leases()
  local found_name = ask_to_open(name, "x").names.token
  return found_name, assert(bed.redis:command("GET", found_name))
end

describe("a record in Redis", function()
  it("opens only unchanged, under its name, for its credential, with the secret", function()
    fetch "opened/image"
    local name, value = find_token "opened/image"
    local opened = ask_to_open("opened/image", value)
    assert.equal(name, opened.names.token)
    opened.local_key, opened.names = nil, nil
    assert.same({ itself = true, credential = false, name = false, key = false, secret = false, flipped = 0,
      truncated = 0, lengthened = false }, opened)
  end)
end)

-- The forms in which a text may be contained in another: unchanged, in hex, in base64 (at each offset in the encoded
-- bytes) in both alphabets, and percent-encoded; and each reversed.
local function list_forms(text)
  local forms = { text, text:lower(), text:upper() }
  local hex = text:gsub(".", function(byte) return ("%02x"):format(byte:byte()) end)
  forms[#forms + 1], forms[#forms + 2] = hex, hex:upper()
  for offset = 0, 2 do
    local encoded = mime.b64(("\0"):rep(offset) .. text)
    -- without the characters that depend on the bytes before and after
    local core = encoded:sub(offset == 0 and 1 or offset + 2, -1 - ((#text + offset) % 3 == 0 and 0 or 4))
    forms[#forms + 1], forms[#forms + 2] = core, (core:gsub("[+/]", { ["+"] = "-", ["/"] = "_" }))
  end
  forms[#forms + 1] = text:gsub("[^%w]", function(byte) return ("%%%02X"):format(byte:byte()) end)
  for i = 1, #forms do forms[#forms + 1] = forms[i]:reverse() end
  return forms
end

describe("all of Redis", function()
  it("contains no token, user, repository, scope, password or key in any form", function()
    local needles = { "confidential", "repository:", "/image1:pull", "unauthorized", "Bearer ", "admin:admin",
      bed.stub.id_token:sub(1, 40), bed.stub.id_token:sub(-40) }
    for i = 1, 5 do
      local token = fetch("confidential/image" .. i)
      for part in token:gsub("^Bearer ", ""):gmatch "[^.]+" do
        needles[#needles + 1] = part:sub(1, 30)
        needles[#needles + 1] = part:sub(-30)
      end
    end
    fetch("confidential/image", { Authorization = PASSWORD })
    local refused = bed:request("confidential/image", { Authorization = "Basic " .. mime.b64 "somebody:forgotten" })
    assert.equal(401, load.request(server.port, refused).status)
    needles[#needles + 1], needles[#needles + 2] = "somebody", "forgotten"
    bed.stub:plan { status = 403 }
    assert.equal(403, load.request(server.port, bed:request "confidential/denied").status)
    local known = ask_to_open("confidential/image1", "x")
    needles[#needles + 1] = mime.unb64(known.local_key)
    needles[#needles + 1] = mime.unb64(files.read(bed.secret_file):match "%S+")
    -- during a token request there is a lease, too
    bed:await_no_leases()
    bed.stub:plan { together = 2 } -- the request waits for a second one, or a reset
    local dump, kinds = {}, {}
    load.together(function() load.perform(server.port, bed:request "confidential/slow") end, function()
      gateway_bed.await("a lease", function() return #bed:list_records ":l" > 0 end)
      bed:each_record(function(name, value)
        dump[#dump + 1], kinds[name:sub(-2)] = name .. "\n" .. value, true
      end)
      bed.stub:reset()
    end)
    assert.same({ [":t"] = true, [":l"] = true, [":f"] = true }, kinds)
    local text = table.concat(dump, "\n")
    for _, needle in ipairs(needles) do
      for _, form in ipairs(list_forms(needle)) do
        assert.is_true(#form >= 5)
        assert.is_nil(text:find(form, 1, true), form)
      end
    end
    for line in text:gmatch "(icptoken:[^\n]*)\n" do
      assert.is_truthy(line:find "^icptoken:1:{[%w_-]+}:[tlfr]$" or line:find "^icptoken:1:trial$", line)
    end
  end)
end)

-- A change of the record of one repository. Each takes its name, its value and the value of another repository's.
local CHANGES = {
  { "swapped with another one's", function(name, _, other) bed.redis:command("SET", name, other, "PX", 60000) end },
  { "cut short", function(name, value) bed.redis:command("SET", name, value:sub(1, -2), "PX", 60000) end },
  { "of some bytes", function(name) bed.redis:command("SET", name, "\0\1\2", "PX", 60000) end },
  { "empty", function(name) bed.redis:command("SET", name, "", "PX", 60000) end },
  { "with a byte more", function(name, value) bed.redis:command("SET", name, value .. "x", "PX", 60000) end },
  { "with 60 kB more", function(name, value)
    bed.redis:command("SET", name, value .. ("x"):rep(60000), "PX", 60000)
  end },
  { "with 5 MB more", function(name, value)
    bed.redis:command("SET", name, value .. ("x"):rep(5e6), "PX", 60000)
  end },
  { "without an expiry", function(name) bed.redis:command("PERSIST", name) end },
  { "of another type", function(name)
    bed.redis:command("DEL", name)
    bed.redis:command("RPUSH", name, "x")
  end },
  { "in place of a refusal", function(name, value)
    bed.redis:command("DEL", name)
    bed.redis:command("SET", name:sub(1, -2) .. "f", value, "PX", 60000)
  end },
  { "in place of a lease, for good", function(name, value)
    bed.redis:command("DEL", name)
    bed.redis:command("SET", name:sub(1, -2) .. "l", value)
  end },
}

describe("a gateway whose Redis is hostile", function()
  for i, change in ipairs(CHANGES) do
    -- of its own, as what a row shares last may reach Redis after the next one has begun
    local repository, other_repository = "hostile/image" .. i, "hostile/other" .. i

    it("requests a token itself in place of a record " .. change[1], function()
      fetch(other_repository)
      local old = fetch(repository)
      local _, other = find_token(other_repository)
      local name, value = find_token(repository)
      load.perform(server.port, { target = "/empty" })
      change[2](name, value, other)
      local answer = load.request(server.port, bed:request(repository))
      assert.equal(200, answer.status)
      assert.equal("repository:" .. repository .. ":pull", gateway_bed.read_scopes(answer))
      assert.are_not.equal(old, gateway_bed.read_echo(answer).headers.authorization)
      local _, total = bed:count_fetches()
      assert.equal(3, total)
    end)
  end

  it("does not use a token after its sealed expiry, whatever Redis says", function()
    local LIFE = 6
    bed.stub:set { expires_in = LIFE }
    local old = fetch "hostile/prolonged"
    local name, value = find_token "hostile/prolonged"
    local expiry = gateway_bed.read_claims(load.request(server.port, bed:request "hostile/prolonged")).exp
    bed.redis:command("SET", name, value, "PX", 3600000)
    gateway_bed.await("the expiry", function() return os.time() > expiry end)
    bed.stub:set { expires_in = 1800 }
    load.perform(server.port, { target = "/empty" })
    -- the first learns the cluster's clock again
    assert.are_not.equal(old, fetch "hostile/prolonged")
    bed:await_no_leases() -- so the new token does not replace this one any more
    load.perform(server.port, { target = "/empty" })
    bed.redis:command("SET", name, value, "PX", 3600000)
    assert.are_not.equal(old, fetch "hostile/prolonged")
  end)

  it("does not accept the report of an earlier failure", function()
    local function count(name, label) return gateway_probe.read_metric(server.port, name, label) end
    fetch "hostile/first" -- with this token the gateway learns the cluster's clock
    bed.stub:plan { status = 404 }
    assert.equal(502, load.request(server.port, bed:request "hostile/failed").status)
    local name = gateway_bed.await("the report", function() return bed:list_records ":r"[1] end)
    local report = bed.redis:command("GET", name)
    local lease, owner = name:sub(1, -2) .. "l", report:match "^%S+"
    assert.equal(200, load.request(server.port, { target = "/later" }).status)
    local waits = count("icptoken_fleet_total", 'result="wait"')
    local expired = count("icptoken_fleet_invalid_total", 'reason="expired"')
    bed.redis:command("SET", lease, owner, "PX", 3000)
    load.together(function()
      assert.equal(200, load.perform(server.port, bed:request "hostile/failed").status)
    end, function()
      gateway_bed.await("the gateway to wait", function()
        bed.redis:command("SET", lease, owner, "PX", 3000)
        return count("icptoken_fleet_total", 'result="wait"') > waits
      end)
      bed.redis:command("SET", name, report, "PX", 60000)
      bed.redis:command("DEL", lease)
    end)
    assert.equal(expired + 1, count("icptoken_fleet_invalid_total", 'reason="expired"'))
  end)

  it("believes the report that it waited for, although another gateway has the lease by then", function()
    local function count_waits()
      return gateway_probe.read_metric(server.port, "icptoken_fleet_total", 'result="wait"')
    end
    fetch "hostile/first" -- tells the cluster's clock
    bed.stub:plan { status = 404 }
    assert.equal(502, load.request(server.port, bed:request "hostile/retaken").status)
    local name = gateway_bed.await("the report", function() return bed:list_records ":r"[1] end)
    local report = bed.redis:command("GET", name)
    local lease, owner = name:sub(1, -2) .. "l", report:match "^%S+"
    bed.redis:command("DEL", name)
    local waits = count_waits()
    bed.redis:command("SET", lease, owner, "PX", 3000)
    load.together(function()
      assert.equal(502, load.perform(server.port, bed:request "hostile/retaken").status)
    end, function()
      gateway_bed.await("the gateway to wait", function()
        bed.redis:command("SET", lease, owner, "PX", 3000)
        return count_waits() > waits
      end)
      bed.redis:command("EVAL", "redis.call('set', KEYS[1], ARGV[1], 'px', 60000) "
        .. "redis.call('set', KEYS[2], 'somebody', 'px', 3000)", 2, name, lease, report)
    end)
    bed.redis:command("DEL", lease)
    local _, total = bed:count_fetches()
    assert.equal(2, total)
  end)

  it("is not sent texts again and again that are longer than any of a gateway", function()
    local LONG = ("x"):rep(60000)
    local function count()
      return gateway_probe.read_metric(server.port, "icptoken_fleet_invalid_total")
        + gateway_probe.read_metric(server.port, "icptoken_fleet_total", 'result="wait"')
    end
    fetch "hostile/long"
    local name = find_token "hostile/long"
    local before = count()
    for _, kind in ipairs { "t", "l", "f" } do
      bed.redis:command("DEL", name)
      bed.redis:command("SET", name:sub(1, -2) .. kind, LONG, "PX", kind == "l" and 3000 or 36000000)
      load.perform(server.port, { target = "/empty" })
      fetch "hostile/long"
      bed:await_no_leases()
      assert.is_true(#bed.redis:command("GET", name) < #LONG)
    end
    assert.equal(before, count())
    -- a server that is no Redis can send an owner all the same
    assert.equal("wait", load.request(server.port, { target = "/held?length=64" }).body)
    assert.equal("invalid", load.request(server.port, { target = "/held?length=65" }).body)
  end)

  it("waits for a lease that no gateway has until little time is left", function()
    local slow = bed:start { gateway = "timeout = 4" }
    assert.equal(200, load.request(slow.port, bed:request "hostile/held").status)
    bed:await_no_leases()
    local name = bed:list_records ":t"[1]
    -- there is a proof, too
    for _, one in ipairs(bed:list_records ":t") do
      if #bed.redis:command("GET", one) > #bed.redis:command("GET", name) then name = one end
    end
    bed.redis:command("DEL", name)
    load.perform(slow.port, { target = "/empty" })
    local lease = name:sub(1, -2) .. "l"
    local is_over = false
    bed.redis:command("SET", lease, "nobody", "PX", 3000)
    load.together(function()
      local answer = load.perform(slow.port, bed:request "hostile/held")
      is_over = true
      assert.equal(200, answer.status)
    end, function()
      while not is_over do
        bed.redis:command("SET", lease, "nobody", "PX", 3000)
        load.sleep(0.05)
      end
    end)
    assert.equal(1, gateway_probe.read_metric(slow.port, "icptoken_fleet_total", 'result="alone"'))
    bed.redis:command("DEL", lease)
  end)

  it("does not use a token that the registry has rejected again", function()
    local old = fetch "hostile/rejected"
    local name, value = find_token "hostile/rejected"
    local rejected = bed:request("hostile/rejected", { ["X-Test-Status"] = "401",
      ["X-Test-Challenge"] = 'Bearer realm="https://registry",error="invalid_token"' })
    assert.equal(401, load.request(server.port, rejected).status)
    gateway_bed.await("the end of its record", function() return not bed.redis:command("GET", name) end)
    local new = fetch "hostile/rejected"
    assert.are_not.equal(old, new)
    bed:await_no_leases()
    -- Redis returns it again when the next token is due for renewal
    bed.redis:command("SET", name, value, "PX", 3600000)
    gateway_probe.age_tokens(server.port)
    local renewed = gateway_bed.await("the renewal", function()
      local token = fetch "hostile/rejected"
      return token ~= new and token
    end)
    assert.are_not.equal(old, renewed)
  end)

  it("does not use any of several tokens again that the registry has rejected", function()
    local tokens, values, name = {}, {}, nil
    local rejected = bed:request("hostile/again", { ["X-Test-Status"] = "401",
      ["X-Test-Challenge"] = 'Bearer realm="https://registry",error="invalid_token"' })
    local function reject()
      load.perform(server.port, { target = "/forget" })
      assert.equal(401, load.request(server.port, rejected).status)
      gateway_bed.await("the end of its record", function() return not bed.redis:command("GET", name) end)
    end
    for i = 1, 3 do
      tokens[fetch "hostile/again"] = true
      name, values[i] = find_token "hostile/again"
      reject()
    end
    for i = 1, 3 do
      bed.redis:command("SET", name, values[i], "PX", 3600000)
      local new = fetch "hostile/again"
      assert.is_nil(tokens[new], i)
      bed:await_no_leases()
      reject()
    end
  end)

  it("counts the records that it did not use", function()
    local function count(reason)
      return gateway_probe.read_metric(server.port, "icptoken_fleet_invalid_total", ('reason="%s"'):format(reason))
    end
    assert.is_true(count "sealed" > 0)
    assert.is_true(count "expired" > 0)
    assert.equal(4, count "unwanted")
  end)
end)

describe("gateways with different secrets", function()
  it("share nothing, and do not affect each other", function()
    local other_file = bed:write_secret("other", OTHER_SECRET)
    local other = bed:start { fleet = ("secret_file = %q"):format(other_file) }
    for i = 1, 5 do fetch("secret/image" .. i) end
    for i = 1, 5 do assert.equal(200, load.request(other.port, bed:request("secret/image" .. i)).status) end
    local _, total = bed:count_fetches()
    assert.equal(10, total)
    assert.equal(0, gateway_probe.read_metric(other.port, "icptoken_fleet_invalid_total"))
  end)
end)
