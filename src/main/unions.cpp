// What blockdev-add, netdev_add, chardev-add and object-add take by the word that names a kind: the registries of those kinds, as
// query-qmp-schema shows them. Only this floor sees all of them.
#include "block/core/drive.h"
#include "monitor/schema.h"
#include "net/net.h"
#include "src/chardev/make.h"
#include "src/vm/user_objects.h"

namespace vmm::cli {
namespace {

using monitor::Branch;
using monitor::Union;

std::vector<const Field*> pointers(std::span<const Field> table) {
  std::vector<const Field*> out;
  for (const Field& f : table) out.push_back(&f);
  return out;
}

std::vector<Branch> block_drivers() {
  std::vector<Branch> out;
  for (const block::BlockDriver* d : block::all_drivers())
    out.push_back({.name = d->name, .fields = pointers(d->options), .any = {d->children.begin(), d->children.end()}});
  return out;
}
std::vector<Branch> netdev_kinds() {
  std::vector<Branch> out;
  for (const net::NetdevKind* k : net::all_netdev_kinds()) out.push_back({.name = k->name, .fields = pointers(k->options), .any = {}});
  return out;
}
std::vector<Branch> chardev_kinds() {
  std::vector<Branch> out;
  for (const std::string& name : chardev_backend_names())
    if (const ChardevKind* k = find_chardev_kind(name)) {
      Branch b{.name = k->name, .fields = pointers(k->options), .any = {}};
      if (name == "socket") b.any = {"addr"};
      if (name == "udp") b.any = {"remote", "local"};
      if (name == "file") b.any = {"in", "out"};
      if (name == "pipe" || name == "serial" || name == "parallel") b.any = {"device"};
      out.push_back(std::move(b));
    }
  return out;
}
std::vector<Branch> object_types() {
  std::vector<Branch> out;
  for (const TypeInfo* t : all_types()) {
    if (!vm::is_user_object(*t)) continue;
    // An object begins with a value for each of its properties: which of them must be given shows when it is completed.
    Branch b{.name = t->name, .fields = {}, .any = {}, .optional = true};
    for (const Field* f : property_fields(*t))
      if (f->set && !f->options.hidden) b.fields.push_back(f);
    out.push_back(std::move(b));
  }
  return out;
}

constexpr Union blockdev{.command = "blockdev-add", .tag = "driver", .common = block::common_node_options, .branches = block_drivers};
constexpr Union netdev{.command = "netdev_add", .tag = "type", .branches = netdev_kinds};
constexpr Union chardev{.command = "chardev-add", .member = "backend", .tag = "type", .wrapped = true, .branches = chardev_kinds};
constexpr Union chardev_change{.command = "chardev-change", .member = "backend", .tag = "type", .wrapped = true, .branches = chardev_kinds};
constexpr Union object{.command = "object-add", .tag = "qom-type", .branches = object_types};
const monitor::RegisteredUnion registered[] = {monitor::RegisteredUnion{blockdev}, monitor::RegisteredUnion{netdev},
                                               monitor::RegisteredUnion{chardev}, monitor::RegisteredUnion{chardev_change},
                                               monitor::RegisteredUnion{object}};

}  // namespace
}  // namespace vmm::cli
