// `info mtree`: the topology, and with -f the flat views, in the layout that people know from QEMU's monitor.
#include <algorithm>

#include "src/memory/publish.h"

namespace vmm::memory {

namespace {
using Kind = MemoryRegion::Kind;

std::string_view kind_text(const MemoryRegion& region, unsigned depth = 0) {
  switch (region.kind()) {
    case Kind::alias: return region.alias_target() && depth < 64 ? kind_text(*region.alias_target(), depth + 1) : "i/o";
    case Kind::ram: return region.read_only() ? "rom" : "ram";
    case Kind::rom: return "rom";
    case Kind::rom_device: return region.romd() ? "romd" : "i/o";
    default: return "i/o";
  }
}
u64 last_of(u64 first, u128 size) { return size ? first + u64(size - 1) : first; }

struct Printer {
  std::string text;
  std::vector<const MemoryRegion*> targets{};  // of aliases, in the order of meeting them

  void line(unsigned level, u64 base, const MemoryRegion& region) {
    const u64 first = base + region.address();
    fmt::format_to(std::back_inserter(text), "{:{}}{:016x}-{:016x} (prio {}, {}): ", "", level * 2, first, last_of(first, region.size()),
                   region.priority(), kind_text(region));
    if (region.kind() != Kind::alias) {
      fmt::format_to(std::back_inserter(text), "{}\n", region.name());
      return;
    }
    const MemoryRegion* target = region.alias_target();
    fmt::format_to(std::back_inserter(text), "alias {} @{} {:016x}-{:016x}\n", region.name(), target ? target->name() : "(gone)",
                   region.alias_offset(), last_of(region.alias_offset(), region.size()));
    if (target && std::ranges::find(targets, target) == targets.end()) targets.push_back(target);
  }

  void tree(unsigned level, u64 base, const MemoryRegion& region, unsigned depth = 0) {
    if (depth > 64) return;
    if (region.enabled()) line(level, base, region);
    std::vector<const MemoryRegion*> children;
    for (const MemoryRegion* child : region.children()) {
      auto before = [&](const MemoryRegion* other) {
        return child->address() != other->address() ? child->address() < other->address() : child->priority() > other->priority();
      };
      children.insert(std::ranges::find_if(children, before), child);
    }
    for (const MemoryRegion* child : children) tree(level + 1, base + region.address(), *child, depth + 1);
  }
};

std::string describe_topology() {
  Printer out;
  std::vector<AddressSpace*> left = address_spaces();
  while (!left.empty()) {
    const MemoryRegion& root = left.front()->root();
    std::vector<std::string> names;
    std::erase_if(left, [&](AddressSpace* space) {
      if (&space->root() != &root) return false;
      names.push_back(space->name());
      return true;
    });
    std::ranges::sort(names);
    for (const std::string& name : names) out.text += format("address-space: {}\n", name);
    out.tree(1, 0, root);
    out.text += '\n';
  }
  for (usize i = 0; i < out.targets.size(); i++) {  // printing one may add others
    out.text += format("memory-region: {}\n", out.targets[i]->name());
    out.tree(1, 0, *out.targets[i]);
    out.text += '\n';
  }
  return std::move(out.text);
}
}  // namespace

std::string describe_tree(bool flat) {
  if (!flat) return describe_topology();
  std::string text;
  auto to = std::back_inserter(text);
  std::vector<AddressSpace*> left = address_spaces();
  for (unsigned number = 0; !left.empty(); number++) {
    const auto view = left.front()->view();
    // Spaces whose maps are rendered from one region share it; those with nothing in them are shown together.
    std::vector<AddressSpace*> group;
    std::erase_if(left, [&](AddressSpace* space) {
      const auto other = space->view();
      if (other->root_ != view->root_ && !(other->ranges().empty() && view->ranges().empty())) return false;
      group.push_back(space);
      return true;
    });
    fmt::format_to(to, "FlatView #{}\n", number);
    for (AddressSpace* space : group) fmt::format_to(to, " AS \"{}\", root: {}\n", space->name(), space->root().name());
    if (view->ranges().empty()) {
      fmt::format_to(to, " Root memory region: (none)\n  No rendered FlatView\n\n");
      continue;
    }
    fmt::format_to(to, " Root memory region: {}\n", view->root_->name());
    for (const FlatRange& r : view->ranges()) {
      const std::string_view kind = r.ram && r.read_only && r.region->kind() == Kind::ram ? "rom" : kind_text(*r.region);
      fmt::format_to(to, "  {:016x}-{:016x} (prio {}, {}): {}", r.first, r.last, r.region->priority(), kind, r.region->name());
      if (r.offset) fmt::format_to(to, " @{:016x}", r.offset);
      text += '\n';
    }
    text += '\n';
  }
  return text;
}

}  // namespace vmm::memory
