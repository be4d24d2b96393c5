-- The metrics of a gateway that are not counted, but read from elsewhere when they are rendered: see metrics.render.
--
-- The functions take `self`, a gateway: settings, target, login_target, store, dict, counters, started_at.

local certificates = require "icptoken.gateway.certificates"
local clock = require "icptoken.gateway.clock"
local icptoken = require "icptoken"

local readings = {}

-- Certificates on connections of other workers count if they were seen at most this long before the last one.
local CERTIFICATE_SECONDS = 600

-- Returns a version of nginx or ngx_lua as people write it. number: 1000000 × major + 1000 × minor + patch.
local function write_version(number)
  return ("%d.%d.%d"):format(number / 1000000, number / 1000 % 1000, number % 1000)
end

-- Returns a sample for each value of a label, for which read returns a number or nil.
local function list_samples(label, values, read)
  local samples = {}
  for _, value in ipairs(values) do
    local number = read(value)
    if number then samples[#samples + 1] = { labels = { label, value }, value = number } end
  end
  return samples
end

local function list_by_worker(self, name)
  local samples = {}
  local by_worker = self.counters:get_by_worker(name)
  for worker = 0, self.counters.workers - 1 do
    samples[worker + 1] = { labels = { "worker", ("%d"):format(worker) }, value = by_worker[worker] }
  end
  return samples
end

local versions = { icptoken = icptoken._VERSION, nginx = write_version(ngx.config.nginx_version),
  ngx_lua = write_version(ngx.config.ngx_lua_version) }

--- Returns the versions of what a gateway consists of.
function readings.get_versions()
  return { icptoken = versions.icptoken, nginx = versions.nginx, ngx_lua = versions.ngx_lua }
end

--- Returns when a certificate expires, in seconds since 1970, or nil if that is unknown. certificate: "endpoint" for
-- the endpoint's own; "cacert" or "cert" for the first to expire in the file of that option.
function readings.find_certificate_expiry(self, certificate)
  if certificate == "endpoint" then return self.counters:get_certificate_expiry(CERTIFICATE_SECONDS) end
  local path = self.target.options[certificate]
  return path and certificates.find_next_expiry_in(path, clock.wall())
end

--- Returns the readings of a gateway.
function readings.read(self)
  local settings, counters = self.settings, self.counters
  local targets = { token = self.target, login = self.login_target }
  local endpoints = { "token", "login" }
  return {
    build = { { value = 1, labels = { "version", versions.icptoken, "nginx", versions.nginx, "ngx_lua",
      versions.ngx_lua } } },
    start_time = self.started_at,
    workers = counters.workers,
    oldest_age = counters:get_oldest_age(),
    inflight_limit = settings.max_inflight * counters.workers,
    queue_limit = settings.max_queue * counters.workers,
    worker_inflight = list_by_worker(self, "inflight"),
    worker_queued = list_by_worker(self, "queued"),
    endpoint_up = list_samples("endpoint", endpoints, function(name)
      return self.store:get_state(targets[name].key) == "ok" and 1 or 0
    end),
    last_answer = list_samples("endpoint", endpoints, function(name) return counters:get_last_answer(name) end),
    endpoint_paused = self.store:is_paused(self.target.key) and 1 or 0,
    certificate_expiry = list_samples("certificate", { "endpoint", "cacert", "cert" }, function(certificate)
      return readings.find_certificate_expiry(self, certificate)
    end),
    redis_available = self.redis and (self.redis:is_available() and 1 or 0),
    dict_free = self.dict:free_space(), dict_size = self.dict:capacity(),
  }
end

return readings
