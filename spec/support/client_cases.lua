-- luacheck: std max+busted
-- The specs of rows of support/clients.lua, the argument of this chunk, which a spec file loads into its own
-- environment. With either challenge, an image that a client pushes through the gateway is received by a real registry,
-- and can be pulled; a mount that is not granted becomes an upload; and a command that is refused fails after a few
-- requests, and prints why.
--
-- Programs are judged by their exit status and by what reached the registry and the cluster. What they print is only
-- searched for the reason.

local cjson = require "cjson"
local clients = require "support.clients"
local files = require "support.files"
local gateway_bed = require "support.gateway_bed"
local registry_bed = require "support.registry_bed"

local ask, to_basic = registry_bed.ask, registry_bed.to_basic

-- The number of requests that a refused command may make: it must not repeat what was refused.
local MAX_REQUESTS = 30
local MAX_TOKEN_REQUESTS = 12

-- With a Bearer challenge the reason is in the header, as from any registry. With Basic it is in the body, which an
-- answer to HEAD does not have: then a program can only print the status.
local REASONS = {
  basic = { "denied", "403" },
  bearer = { "denied", "insufficient_scope" },
}
local WRONG_PASSWORD = { "unauthorized", "invalid username/password", "credential was refused",
  "authentication required", "401" }

-- With an entry in the file, docker and oras keep logins there, not in docker-credential-pass if that is installed.
local OTHER_LOGIN = '{"auths":{"other.example":{"auth":"eDp5"}}}'

local rows = ...
local bed

setup(function() bed = registry_bed.open() end)
teardown(function() registry_bed.close(bed) end)

local function assert_says(patterns, output)
  for _, pattern in ipairs(patterns) do
    if output:lower():find(pattern, 1, true) then return end
  end
  error(("none of %s in what the program printed:\n%s"):format(table.concat(patterns, ", "), output), 2)
end

local function assert_succeeds(ok, output)
  if not ok then error("the program failed:\n" .. output, 2) end
end

for _, row in ipairs(rows) do
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
      kit = clients.new_kit(bed, row)
      if row.start then stop = row.start(kit) end
    end)

    teardown(function()
      if stop then stop() end
    end)

    -- A repository that only this client uses.
    local function name_repository(challenge, purpose)
      return ("%s/%s/%s"):format(row.name:gsub("%W+", "-"):lower(), challenge, purpose)
    end

    local function name_image(challenge, repository)
      return ("127.0.0.1:%d/%s:1"):format(bed.gates[challenge].port, repository)
    end

    local function begin(challenge, password)
      bed:write_authfile(bed.gates[challenge], "admin", password or "admin")
      bed:forget()
    end

    local function deny(denial, ...)
      bed:forget()
      bed.stub:set { denied = { ... }, denial = denial }
    end

    local function store_and_push(challenge, repository)
      local name = name_image(challenge, repository)
      kit:renew_image()
      assert_succeeds(row.store(kit, name))
      assert_succeeds(row.push(kit, name, "admin"))
      return name
    end

    local function pull(name)
      assert_succeeds(row.forget(kit))
      return row.pull(kit, name, "admin")
    end

    local function request(method, repository, target)
      return ask(bed.gates.basic, method, "/v2/" .. repository .. target, to_basic("admin", "admin"))
    end

    -- Checks that the registry has the image with its layer.
    local function assert_pushed(repository)
      bed:forget()
      local answer = request("GET", repository, "/manifests/1")
      assert.equal(200, answer.status, answer.body)
      local layer = cjson.decode(answer.body).layers[1].digest
      assert.equal(200, request("HEAD", repository, "/blobs/" .. layer).status)
    end

    -- Checks that the registry has served a blob of the repository to the client.
    local function await_pulled(challenge, repository)
      gateway_bed.await("a blob of " .. repository, function()
        for _, one in ipairs(bed:list_client_requests(bed.gates[challenge])) do
          local is_blob = one.target:find(("/v2/%s/blobs/sha256:"):format(repository), 1, true)
          if is_blob and one.method == "GET" and one.status == 200 then return true end
        end
      end)
    end

    local function assert_refused(challenge, patterns, ok, output)
      assert.is_false(ok, output)
      assert_says(patterns, output)
      assert.is_true(#bed:list_client_requests(bed.gates[challenge]) <= MAX_REQUESTS)
    end

    -- Checks that the client has requested a layer of one of the repositories that are denied.
    local function has_tried_to_mount(denied)
      local scopes = " " .. table.concat(bed:list_scopes(), " ") .. " "
      for _, repository in ipairs(denied) do
        if scopes:find((" repository:%s:pull "):format(repository), 1, true) then return true end
      end
      return false
    end

    it("costs the cluster with bearer, for a push and a pull, no more requests than basic and one login", function()
      local tokens, logins = {}, {}
      for _, challenge in ipairs(registry_bed.CHALLENGES) do
        local repository = name_repository(challenge, "counted")
        begin(challenge)
        local name = store_and_push(challenge, repository)
        assert_succeeds(pull(name))
        await_pulled(challenge, repository)
        tokens[challenge], logins[challenge] = bed:count_requests()
        assert_pushed(repository)
      end
      assert.is_true(tokens.basic > 0)
      assert.is_true(tokens.bearer <= tokens.basic, ("%d, %d"):format(tokens.bearer, tokens.basic))
      assert.same({ basic = 0, bearer = 1 }, logins)
    end)

    for _, challenge in ipairs(registry_bed.CHALLENGES) do
      describe("with challenge = " .. challenge, function()
        -- The repositories that have a layer of the image, from which it could be mounted. The first has the image.
        local source, pushed

        setup(function()
          source = name_repository(challenge, "source")
          pushed = { source }
          begin(challenge)
          store_and_push(challenge, source)
        end)

        if row.log_in then
          it("logs in with the right password only", function()
            local address = "127.0.0.1:" .. bed.gates[challenge].port
            local authfile = bed:write_authfile(bed.gates[challenge], "admin", "admin")
            for password, is_right in pairs { wrong = false, admin = true } do
              files.write(authfile, OTHER_LOGIN)
              bed:forget()
              local ok, output = row.log_in(kit, address, password, "admin")
              assert.equal(is_right, ok, output)
              assert.equal(is_right, cjson.decode(files.read(authfile)).auths[address] ~= nil)
              assert.is_true(#bed.stub:requests() <= (challenge == "bearer" and is_right and 2 or 1))
            end
          end)

          it("logs in as token_user with an ID token of the cluster's only", function()
            local address = "127.0.0.1:" .. bed.gates[challenge].port
            local authfile = bed:write_authfile(bed.gates[challenge], "admin", "admin")
            for id_token, is_right in pairs { ["any-other-word"] = false, [bed.stub.id_token] = true } do
              os.remove(authfile)
              bed:forget()
              local ok, output = row.log_in(kit, address, id_token, "id-token")
              assert.equal(is_right, ok, output)
              assert.equal(1, #bed.stub:requests())
              if not is_right then assert_says(WRONG_PASSWORD, output) end
            end
          end)
        end

        it("is refused with a wrong password, after one request at the cluster", function()
          local repository = name_repository(challenge, "guarded")
          begin(challenge, "wrong")
          kit:renew_image()
          assert_succeeds(row.store(kit, name_image(challenge, repository)))
          assert_refused(challenge, WRONG_PASSWORD, row.push(kit, name_image(challenge, repository), "wrong"))
          assert_succeeds(row.forget(kit))
          assert_refused(challenge, WRONG_PASSWORD, row.pull(kit, name_image(challenge, source), "wrong"))
          assert.equal(1, #bed.stub:requests())
          assert.equal(404, request("GET", repository, "/manifests/1").status)
        end)

        for _, denial in ipairs { "403", "less" } do
          it(("prints that a push and a pull are denied, as the cluster says with %s"):format(denial), function()
            local repository = name_repository(challenge, "denied-" .. denial)
            begin(challenge)
            kit:renew_image()
            assert_succeeds(row.store(kit, name_image(challenge, repository)))
            deny(denial, source, repository)
            assert_refused(challenge, REASONS[challenge], row.push(kit, name_image(challenge, repository), "admin"))
            assert_succeeds(row.forget(kit))
            assert_refused(challenge, REASONS[challenge], row.pull(kit, name_image(challenge, source), "admin"))
            local tokens, logins = bed:count_requests()
            assert.is_true(tokens <= MAX_TOKEN_REQUESTS, tokens .. " token requests")
            assert.is_true(logins <= 1, logins .. " logins")
            bed:forget()
            assert.equal(404, request("GET", repository, "/manifests/1").status)
          end)

          if row.tag then
            it(("uploads the layer that it may not mount, as the cluster says with %s"):format(denial), function()
              local repository = name_repository(challenge, "mounting-" .. denial)
              begin(challenge)
              assert_succeeds(pull(name_image(challenge, source)))
              deny(denial, unpack(pushed))
              assert_succeeds(row.tag(kit, name_image(challenge, source), name_image(challenge, repository)))
              assert_succeeds(row.push(kit, name_image(challenge, repository), "admin"))
              assert.is_true(has_tried_to_mount(pushed))
              pushed[#pushed + 1] = repository
              assert_pushed(repository)
            end)
          end
        end

        if row.copy then
          it("copies from a repository that it may read, and prints that another one is denied", function()
            local repository = name_repository(challenge, "copy")
            begin(challenge)
            assert_succeeds(row.copy(kit, name_image(challenge, source), name_image(challenge, repository)))
            assert_pushed(repository)
            for _, denial in ipairs { "403", "less" } do
              deny(denial, source)
              assert_refused(challenge, REASONS[challenge], row.copy(kit, name_image(challenge, source),
                name_image(challenge, repository .. "-denied")))
            end
          end)
        end
      end)
    end
  end)
end
