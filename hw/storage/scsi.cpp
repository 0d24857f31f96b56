// The bus and what all units have in common. Source: SPC-5 §6 (INQUIRY, REPORT LUNS, REQUEST SENSE), SAM-5 §5.14 (unit attention).
#include "hw/storage/scsi.h"

#include <cstring>

#include "src/base/bits.h"
#include "src/base/log.h"

namespace vmm::hw {

constinit const TypeInfo ScsiBus::type{
    .name = "SCSI", .doc = "A SCSI bus.", .parent = &Bus::type, .make = make<ScsiBus>, .user_creatable = false};
static Registered registered_bus{ScsiBus::type};

constexpr Field ScsiDevice::address_properties[address_field_count] = {
    field<&ScsiDevice::channel_>("channel", "Channel of the bus.", {.max = 0}),
    field<&ScsiDevice::id_on_bus_>("scsi-id", "Target; the first free one if not given."),
    field<&ScsiDevice::lun_>("lun", "Logical unit of the target; the first free one if not given."),
};
constexpr Field ScsiDevice::unit_state[1] = {
    computed<&ScsiDevice::saved_attentions, &ScsiDevice::load_attentions>("attentions", "what the next commands are told"),
};
constinit const TypeInfo ScsiDevice::type{.name = "scsi-device",
                                          .doc = "A logical unit on a SCSI bus.",
                                          .parent = &Device::type,
                                          .properties = address_properties,
                                          .state = unit_state,
                                          .user_creatable = false,
                                          .bus = "SCSI"};
static Registered registered{ScsiDevice::type};

std::array<u8, 18> fixed_sense(ScsiSense s) { return {0x70, 0, s.key, 0, 0, 0, 0, 10, 0, 0, 0, 0, s.code, s.qualifier}; }

ScsiSense sense_of(const Error& error) {
  switch (error_number(error)) {
    case ENOMEDIUM: return sense::no_medium;
    case ENOSPC: return sense::no_space;
    case EINVAL: return sense::invalid_field;
    default: return sense::io_error;
  }
}

// --- Bus

Result<> ScsiBus::may_plug(Device& device) {
  if (!dynamic_cast<ScsiDevice*>(&device)) return fail("Device '{}' can't go on {} bus", device.type_info().name, bus_type());
  return {};
}

Result<> ScsiBus::plugged(Device& device) {
  auto& d = static_cast<ScsiDevice&>(device);
  const auto taken = [&](u32 id, u32 lun) {
    for (const Device* o : devices()) {
      const auto* other = static_cast<const ScsiDevice*>(o);
      if (other != &d && other->channel_ == d.channel_ && other->id_on_bus_ == id && other->lun_ == lun) return true;
    }
    return false;
  };
  if (d.id_on_bus_ != ~u32{0} && d.id_on_bus_ > most_targets) return fail("bad scsi device id: {}", d.id_on_bus_);
  if (d.lun_ != ~u32{0} && d.lun_ > most_luns) return fail("bad scsi device lun: {}", d.lun_);
  if (d.id_on_bus_ == ~u32{0}) {
    if (d.lun_ == ~u32{0}) d.lun_ = 0;
    u32 id = 0;
    while (id <= most_targets && taken(id, d.lun_)) id++;
    if (id > most_targets) return fail("no free target");
    d.id_on_bus_ = id;
  } else if (d.lun_ == ~u32{0}) {
    u32 lun = 0;
    while (lun <= most_luns && taken(d.id_on_bus_, lun)) lun++;
    if (lun > most_luns) return fail("no free lun");
    d.lun_ = lun;
  } else if (taken(d.id_on_bus_, d.lun_)) {
    return fail("lun already used by another device: channel {}, target {}, lun {}", d.channel_, d.id_on_bus_, d.lun_);
  }
  return {};
}

std::string ScsiBus::address_of(const Device& device) const {
  const auto& d = static_cast<const ScsiDevice&>(device);
  return format("{}:{}:{}", d.channel_, d.id_on_bus_, d.lun_);
}

ScsiDevice* ScsiBus::find(u32 channel, u32 target, u32 lun) const {
  ScsiDevice* near = nullptr;
  for (Device* d : devices()) {
    auto* unit = static_cast<ScsiDevice*>(d);
    if (!unit->realized() || unit->channel_ != channel || unit->id_on_bus_ != target) continue;
    if (unit->lun_ == lun) return unit;
    if (!near) near = unit;
  }
  return near;
}

std::vector<u32> ScsiBus::luns(u32 channel, u32 target) const {
  std::vector<u32> out;
  for (const Device* d : devices()) {
    const auto* unit = static_cast<const ScsiDevice*>(d);
    if (unit->realized() && unit->channel_ == channel && unit->id_on_bus_ == target) out.push_back(unit->lun_);
  }
  std::ranges::sort(out);
  return out;
}

// --- Units

void ScsiDevice::reset() { reset_unit(); }
void ScsiDevice::reset_unit() { attentions_.assign(1, sense::reset); }

void ScsiDevice::attention(ScsiSense s) {
  if (attentions_.size() < 4) attentions_.push_back(s);
  if (realized() && scsi().adapter) scsi().adapter->scsi_changed(*this, s);
}

std::vector<u32> ScsiDevice::saved_attentions() const {
  std::vector<u32> out;
  for (const ScsiSense& s : attentions_) out.push_back(u32{s.key} << 16 | u32{s.code} << 8 | s.qualifier);
  return out;
}

Result<> ScsiDevice::load_attentions(const std::vector<u32>& attentions) {
  if (attentions.size() > 4) return fail("{} unit attentions", attentions.size());
  attentions_.clear();
  for (const u32 a : attentions) attentions_.push_back({static_cast<u8>(a >> 16), static_cast<u8>(a >> 8), static_cast<u8>(a)});
  return {};
}

ScsiAnswer ScsiDevice::answer(ScsiCommand& command, std::span<const u8> data, u64 limit) {
  const u64 n = std::min<u64>({data.size(), limit, command.in.size()});
  if (n) command.in.part(0, n).copy_in(data.first(n));
  return {.transferred = n};
}

Task<ScsiAnswer> ScsiDevice::execute(ScsiCommand& command) {
  ScsiAnswer a = co_await dispatch(command);
  co_return a;
}

Task<ScsiAnswer> ScsiDevice::dispatch(ScsiCommand& command) {
  const auto& c = command.cdb;
  if (c[0] == 0xa0) co_return report_luns(command);
  const bool passed = passes() && command.lun == lun_;
  if (c[0] == 0x12 && !passed) co_return inquire(command);
  if (command.lun != lun_) {
    if (c[0] == 0x03) co_return answer(command, fixed_sense(sense::lun_not_supported), c[4]);
    co_return ScsiAnswer::check(sense::lun_not_supported);
  }
  if (c[0] == 0x03 && !(passed && attentions_.empty())) {  // answers carry their sense; this tells what waits
    ScsiSense s = sense::none;
    if (!attentions_.empty()) s = attentions_.front(), attentions_.erase(attentions_.begin());
    if (c[1] & 1) {
      const std::array<u8, 8> descriptor{0x72, s.key, s.code, s.qualifier, 0, 0, 0, 0};
      co_return answer(command, descriptor, c[4]);
    }
    co_return answer(command, fixed_sense(s), c[4]);
  }
  if (!attentions_.empty() && c[0] != 0x12) {
    const ScsiSense s = attentions_.front();
    attentions_.erase(attentions_.begin());
    co_return ScsiAnswer::check(s);
  }
  ScsiAnswer a = co_await carry_out(command);
  co_return a;
}

ScsiAnswer ScsiDevice::report_luns(ScsiCommand& command) const {
  const u32 limit = load_be<u32>(&command.cdb[6]);
  if (limit < 16 || command.cdb[2] > 2) return ScsiAnswer::check(sense::invalid_field);
  std::vector<u32> luns = command.cdb[2] == 1 ? std::vector<u32>{} : scsi().luns(channel_, id_on_bus_);
  if (command.cdb[2] != 1 && (luns.empty() || luns[0] != 0)) luns.insert(luns.begin(), 0);
  std::vector<u8> data(8 + 8 * luns.size());
  store_be<u32>(data.data(), static_cast<u32>(8 * luns.size()));
  for (usize i = 0; i < luns.size(); i++) {
    u8* entry = data.data() + 8 + 8 * i;
    if (luns[i] < 256)
      entry[1] = static_cast<u8>(luns[i]);
    else
      store_be<u16>(entry, static_cast<u16>(0x4000 | luns[i]));
  }
  return answer(command, data, limit);
}

ScsiAnswer ScsiDevice::inquire(ScsiCommand& command) const {
  const auto& c = command.cdb;
  const u32 limit = load_be<u16>(&c[3]);
  if (!(c[1] & 1) && c[2]) return ScsiAnswer::check(sense::invalid_field);
  if (command.lun != lun_) {  // a unit that is not there
    if (c[1] & 1) return ScsiAnswer::check(sense::invalid_field);
    std::array<u8, 36> absent{0x7f, 0, 5, 2, 31};
    return answer(command, absent, limit);
  }
  if (!(c[1] & 1)) return answer(command, inquiry(), limit);
  const auto page = vital_page(c[2]);
  if (!page) return ScsiAnswer::check(sense::invalid_field);
  return answer(command, *page, limit);
}

}  // namespace vmm::hw
