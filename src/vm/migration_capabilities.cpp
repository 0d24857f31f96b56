// query-migrate-capabilities, migrate-set-capabilities. No domain of libvirt's starts without them: it turns on "events", the only
// capability that there is before there is migration. Source: contract.md §2.2, §2.5.
#include "src/control/command.h"

namespace vmm {
namespace vm {
enum class MigrationCapability { events };
struct CapabilityStatus {
  MigrationCapability capability{};
  bool state = false;
};
struct CapabilitiesArgs {
  std::vector<CapabilityStatus> capabilities;
};
}  // namespace vm

using namespace vm;
template <>
inline constexpr std::array enum_names<MigrationCapability> = {EnumNameOf<MigrationCapability>{MigrationCapability::events, "events"}};
template <>
inline constexpr std::array fields<CapabilityStatus> = {field<&CapabilityStatus::capability>("capability", "Name."),
                                                        field<&CapabilityStatus::state>("state", "On or off.")};
template <>
inline constexpr std::array fields<CapabilitiesArgs> = {
    field<&CapabilitiesArgs::capabilities>("capabilities", "What to turn on or off; others stay as they are.")};

namespace vm {
namespace {

// Lies in the tree at /migration.
class MigrationSettings final : public Object {
 public:
  static const TypeInfo type;
  bool events = false;

 private:
  static const Field properties[1];
};
constexpr Field MigrationSettings::properties[1] = {
    field<&MigrationSettings::events>("events", "Tell the monitors about each step of a migration.", {.live = true})};
constinit const TypeInfo MigrationSettings::type{.name = "migration",
                                                 .doc = "Settings of migrations.",
                                                 .parent = &Object::type,
                                                 .properties = properties,
                                                 .make = make<MigrationSettings>,
                                                 .user_creatable = false};
vmm::Registered registered_type{MigrationSettings::type};

MigrationSettings& settings() {
  if (Object* there = root_object().child("migration")) return *object_cast<MigrationSettings>(there);
  auto made = make_object<MigrationSettings>();
  root_object().add_child("migration", made);
  return *made;
}

using namespace control;

Result<std::vector<CapabilityStatus>> query(Context&) {
  return std::vector{CapabilityStatus{.capability = MigrationCapability::events, .state = settings().events}};
}
Result<> set(Context&, const CapabilitiesArgs& args) {
  for (const CapabilityStatus& c : args.capabilities) settings().events = c.state;
  return {};
}
std::string print(const Value& v) {
  std::string out;
  for (const Value& c : v.items())
    out += format("{}: {}\n", c.find("capability")->get_string(), c.find("state")->get_bool() ? "on" : "off");
  return out;
}
Result<std::string> set_human(Context&, std::span<const std::string> words) {
  if (words.size() != 2) return fail("migrate_set_capability takes a name and on or off");
  Value one = Value::object().set("capability", words[0]).set("state", words[1]);
  CapabilitiesArgs args;
  TRY(assign_fields(&args, fields<CapabilitiesArgs>, Value::object().set("capabilities", Value::list().append(std::move(one)))));
  for (const CapabilityStatus& c : args.capabilities) settings().events = c.state;
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
};

}  // namespace
}  // namespace vm
}  // namespace vmm
