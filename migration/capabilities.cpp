// query-migrate-capabilities, migrate-set-capabilities, migrate-set-parameters, query-migrate-parameters. No domain of libvirt's starts
// without the first two. Source: contract.md §2.2, §2.5; names and limits of parameters as QEMU 7.2 shows them.
#include "migration/outgoing.h"
#include "migration/settings.h"
#include "src/control/command.h"

namespace vmm {
namespace migration {
Parameters parameters;

namespace {
std::array<bool, capability_count> capabilities{};

struct CapabilityStatus {
  Capability capability{};
  bool state = false;
};
struct CapabilitiesArgs {
  std::vector<CapabilityStatus> capabilities;
};
struct ParameterArgs {
  std::optional<u64> announce_initial, announce_max, announce_rounds, announce_step;
  std::optional<u64> cpu_throttle_initial, cpu_throttle_increment;
  std::optional<Bytes64> max_bandwidth;
  std::optional<u64> downtime_limit, multifd_channels, max_cpu_throttle;
  std::optional<Packing> multifd_compression;
  std::optional<u64> multifd_zstd_level;
};
}  // namespace

bool capable(Capability c) { return capabilities[static_cast<usize>(c)]; }
}  // namespace migration

using migration::CapabilitiesArgs;
using migration::CapabilityStatus;
using migration::ParameterArgs;
template <>
inline constexpr std::array fields<CapabilityStatus> = {field<&CapabilityStatus::capability>("capability", "Name."),
                                                        field<&CapabilityStatus::state>("state", "On or off.")};
template <>
inline constexpr std::array fields<CapabilitiesArgs> = {
    field<&CapabilitiesArgs::capabilities>("capabilities", "What to turn on or off; others stay as they are.")};
template <>
inline constexpr std::array fields<ParameterArgs> = {
    field<&ParameterArgs::announce_initial>("announce-initial", "Milliseconds to the second announcement.", {.max = 100'000}),
    field<&ParameterArgs::announce_max>("announce-max", "Most milliseconds between announcements.", {.max = 100'000}),
    field<&ParameterArgs::announce_rounds>("announce-rounds", "How many announcements.", {.max = 1000}),
    field<&ParameterArgs::announce_step>("announce-step", "Milliseconds that are added each time.", {.max = 10'000}),
    field<&ParameterArgs::cpu_throttle_initial>("cpu-throttle-initial", "Percent of their time that CPUs stand still at first.",
                                                {.min = 1, .max = 99}),
    field<&ParameterArgs::cpu_throttle_increment>("cpu-throttle-increment", "Percent that are added each time.", {.min = 1, .max = 99}),
    field<&ParameterArgs::max_bandwidth>("max-bandwidth", "Bytes a second; 0: no limit."),
    field<&ParameterArgs::downtime_limit>("downtime-limit", "Milliseconds for which the guest may stand.", {.max = 2'000'000}),
    field<&ParameterArgs::multifd_channels>("multifd-channels", "Further connections.", {.min = 1, .max = 255}),
    field<&ParameterArgs::max_cpu_throttle>("max-cpu-throttle", "Most percent of that.", {.min = 1, .max = 99}),
    field<&ParameterArgs::multifd_compression>("multifd-compression", "How pages are packed on them."),
    field<&ParameterArgs::multifd_zstd_level>("multifd-zstd-level", "1 (fast) to 20 (small).", {.max = 20}),
};

namespace migration {
namespace {

using namespace control;

Result<std::vector<CapabilityStatus>> query(Context&) {
  std::vector<CapabilityStatus> out;
  for (const auto& n : enum_names<Capability>) out.push_back({.capability = n.value, .state = capable(n.value)});
  return out;
}
Result<> set(Context&, const CapabilitiesArgs& args) {
  if (latest_move() && !latest_move()->ended()) return fail("There's a migration process in progress");
  for (const CapabilityStatus& c : args.capabilities) capabilities[static_cast<usize>(c.capability)] = c.state;
  return {};
}
std::string print(const Value& v) {
  std::string out;
  for (const Value& c : v.items())
    out += format("{}: {}\n", c.find("capability")->get_string(), c.find("state")->get_bool() ? "on" : "off");
  return out;
}
Result<std::string> set_human(Context& context, std::span<const std::string> words) {
  if (words.size() != 2) return fail("migrate_set_capability takes a name and on or off");
  Value one = Value::object().set("capability", words[0]).set("state", words[1]);
  CapabilitiesArgs args;
  TRY(assign_fields(&args, fields<CapabilitiesArgs>, Value::object().set("capabilities", Value::list().append(std::move(one)))));
  TRY(set(context, args));
  return std::string{};
}

Result<> set_parameters(Context&, const ParameterArgs& a) {
  Parameters& p = parameters;
  const auto take = [](auto& to, const auto& from) {
    if (from) to = static_cast<std::remove_reference_t<decltype(to)>>(*from);
  };
  take(p.announce_initial, a.announce_initial), take(p.announce_max, a.announce_max);
  take(p.announce_rounds, a.announce_rounds), take(p.announce_step, a.announce_step);
  take(p.cpu_throttle_initial, a.cpu_throttle_initial), take(p.cpu_throttle_increment, a.cpu_throttle_increment);
  take(p.max_cpu_throttle, a.max_cpu_throttle);
  if (a.max_bandwidth) p.max_bandwidth = a.max_bandwidth->value;
  take(p.downtime_limit, a.downtime_limit);
  take(p.multifd_channels, a.multifd_channels), take(p.multifd_compression, a.multifd_compression);
  take(p.multifd_zstd_level, a.multifd_zstd_level);
  return {};
}
Result<ParameterArgs> query_parameters(Context&) {
  const Parameters& p = parameters;
  return ParameterArgs{.announce_initial = p.announce_initial,
                       .announce_max = p.announce_max,
                       .announce_rounds = p.announce_rounds,
                       .announce_step = p.announce_step,
                       .cpu_throttle_initial = p.cpu_throttle_initial,
                       .cpu_throttle_increment = p.cpu_throttle_increment,
                       .max_bandwidth = Bytes64{p.max_bandwidth},
                       .downtime_limit = p.downtime_limit,
                       .multifd_channels = p.multifd_channels,
                       .max_cpu_throttle = p.max_cpu_throttle,
                       .multifd_compression = p.multifd_compression,
                       .multifd_zstd_level = p.multifd_zstd_level};
}
std::string print_parameters(const Value& v) {
  std::string out;
  for (const auto& [name, value] : v.members()) out += format("{}: {}\n", name, value.is_string() ? value.get_string() : to_json(value));
  return out;
}
Result<std::string> set_parameter_human(Context& context, std::span<const std::string> words) {
  if (words.size() != 2) return fail("migrate_set_parameter takes a name and a value");
  ParameterArgs args;
  TRY(assign_fields(&args, fields<ParameterArgs>, Value::object().set(words[0], words[1])));
  TRY(set_parameters(context, args));
  return std::string{};
}

const control::Registered registered[] = {
    control::Registered{command<query>({.name = "query-migrate-capabilities",
                                        .doc = "Capabilities of migration, and which are on.",
                                        .since = "1.2",
                                        .human = "info migrate_capabilities",
                                        .human_help = "info migrate_capabilities -- show current migration capabilities",
                                        .human_print = print})},
    control::Registered{
        command<set>({.name = "migrate-set-capabilities", .doc = "Turns capabilities of migration on or off.", .since = "1.2"})},
    control::Registered{human<set_human>({.human = "migrate_set_capability",
                                          .human_help = "migrate_set_capability capability state -- Enable/Disable the usage of a "
                                                        "capability for migration"})},
    control::Registered{command<set_parameters>({.name = "migrate-set-parameters", .doc = "Limits of the move.", .since = "2.4"})},
    control::Registered{command<query_parameters>({.name = "query-migrate-parameters",
                                                   .doc = "Limits of the move.",
                                                   .since = "2.4",
                                                   .human = "info migrate_parameters",
                                                   .human_help = "info migrate_parameters -- show current migration parameters",
                                                   .human_print = print_parameters})},
    control::Registered{human<set_parameter_human>(
        {.human = "migrate_set_parameter", .human_help = "migrate_set_parameter parameter value -- Set the parameter for migration"})},
};

}  // namespace
}  // namespace migration
}  // namespace vmm
