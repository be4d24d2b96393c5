-- The metrics of a gateway that are not counted, but read from elsewhere when they are rendered: see metrics.render.
--
-- The functions take `self`, a gateway: settings, target, login_target, store, dict, counters, started_at, samples. The
-- last are the samples of these readings, which are kept from one scrape to the next, as metrics.render asks.

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

-- Returns a sample for each value of a label, without its number.
local function create_samples(label, values)
  local samples = {}
  for i, value in ipairs(values) do samples[i] = { labels = { label, value }, value = nil, line = nil } end
  return samples
end

-- Returns the samples of a family, with the number that read(self, value) returns for each value of the label, or nil.
local function list_samples(self, family, label, values, read)
  local samples = self.samples[family] or create_samples(label, values)
  for i, value in ipairs(values) do samples[i].value = read(self, value) end
  self.samples[family] = samples
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

local ENDPOINTS, CERTIFICATES = { "token", "login" }, { "endpoint", "cacert", "cert" }

local function read_endpoint_up(self, endpoint)
  local target = endpoint == "login" and self.login_target or self.target
  return self.store:get_state(target.key) == "ok" and 1 or 0
end

local function read_last_answer(self, endpoint)
  return self.counters:get_last_answer(endpoint)
end

local function list_versions(self)
  self.samples.build = self.samples.build or { { value = 1, labels = { "version", versions.icptoken, "nginx",
    versions.nginx, "ngx_lua", versions.ngx_lua } } }
  return self.samples.build
end

--- Returns the readings of a gateway.
function readings.read(self)
  local settings, counters = self.settings, self.counters
  return {
    build = list_versions(self),
    start_time = self.started_at,
    workers = counters.workers,
    oldest_age = counters:get_oldest_age(),
    inflight_limit = settings.max_inflight * counters.workers,
    queue_limit = settings.max_queue * counters.workers,
    endpoint_up = list_samples(self, "endpoint_up", "endpoint", ENDPOINTS, read_endpoint_up),
    last_answer = list_samples(self, "last_answer", "endpoint", ENDPOINTS, read_last_answer),
    endpoint_paused = self.store:is_paused(self.target.key) and 1 or 0,
    certificate_expiry = list_samples(self, "certificate_expiry", "certificate", CERTIFICATES,
      readings.find_certificate_expiry),
    redis_available = self.redis and (self.redis:is_available() and 1 or 0),
    dict_free = self.dict:free_space(), dict_size = self.dict:capacity(),
  }
end

return readings
