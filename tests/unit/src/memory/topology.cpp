// Random topologies against a model that resolves one address at a time, straight from the rules in memory.h.
#include <deque>
#include <random>

#include "src/memory/memory.h"
#include "tests/unit/test.h"

using namespace vmm;
using namespace vmm::memory;

namespace {

constexpr u64 space_bytes = 0x1000;

struct Node {
  MemoryRegion region;
  MemoryRegion::Kind kind{};
  bool enabled = true, read_only = false;
  u64 size = 0, address = 0, alias_offset = 0;
  int priority = 0;
  u64 added = 0;  // among equals the later one wins
  Node *parent = nullptr, *target = nullptr;
  std::vector<Node*> children;
};

struct Model {
  std::deque<Node> nodes;  // children and alias targets have higher numbers than their parents: no cycles
  std::mt19937 random;
  u64 clock = 0;

  explicit Model(unsigned seed) : random(seed) {
    for (unsigned i = 0; i < 24; i++) {
      Node& n = nodes.emplace_back();
      n.size = i ? 1 + random() % (space_bytes / 2) : space_bytes;
      const unsigned choice = i ? random() % 4 : 0;
      n.kind = choice == 0   ? MemoryRegion::Kind::container
               : choice == 1 ? MemoryRegion::Kind::io
               : choice == 2 ? MemoryRegion::Kind::ram
                             : MemoryRegion::Kind::alias;
    }
    for (usize i = nodes.size(); i-- > 0;) {
      Node& n = nodes[i];
      const std::string name = format("r{}", i);
      if (n.kind == MemoryRegion::Kind::alias && i + 1 == nodes.size()) n.kind = MemoryRegion::Kind::io;
      switch (n.kind) {
        case MemoryRegion::Kind::container: n.region.init_container(nullptr, name, n.size); break;
        case MemoryRegion::Kind::io: n.region.init_io(nullptr, name, n.size, {}, nullptr); break;
        case MemoryRegion::Kind::ram: OK(n.region.init_ram(nullptr, name, n.size)); break;
        default:
          n.target = &nodes[i + 1 + random() % (nodes.size() - i - 1)];
          n.alias_offset = random() % space_bytes;
          n.region.init_alias(nullptr, name, n.target->region, n.alias_offset, n.size);
      }
    }
  }

  struct Place {
    const Node* node = nullptr;
    u64 offset = 0;
    bool read_only = false;
  };
  static Place resolve(const Node& n, u64 offset, bool read_only) {
    if (!n.enabled || offset >= n.size) return {};
    read_only |= n.read_only;
    if (n.kind == MemoryRegion::Kind::alias) return resolve(*n.target, offset + n.alias_offset, read_only);
    std::vector<const Node*> order{n.children.begin(), n.children.end()};
    std::ranges::sort(
        order, [](const Node* a, const Node* b) { return a->priority != b->priority ? a->priority > b->priority : a->added > b->added; });
    for (const Node* child : order)
      if (offset >= child->address)
        if (const Place p = resolve(*child, offset - child->address, read_only); p.node) return p;
    if (n.kind == MemoryRegion::Kind::container) return {};
    return {&n, offset, read_only};
  }

  void change() NO_THREAD_SAFETY_ANALYSIS {
    const usize i = 1 + random() % (nodes.size() - 1);
    Node& n = nodes[i];
    switch (random() % 8) {
      case 0:
      case 1:
      case 2:
        if (!n.parent) {
          n.parent = &nodes[random() % i];
          if (n.parent->kind == MemoryRegion::Kind::alias) return void(n.parent = nullptr);
          n.address = random() % space_bytes, n.priority = int(random() % 5) - 2, n.added = ++clock;
          n.parent->children.push_back(&n);
          n.parent->region.add(n.region, n.address, n.priority);
        }
        break;
      case 3:
        if (n.parent && random() % 2) {
          n.parent->region.remove(n.region);
          std::erase(n.parent->children, &n);
          n.parent = nullptr;
        }
        break;
      case 4: n.region.set_enabled(n.enabled = random() % 3 != 0); break;
      case 5:
        if (n.parent) {
          const u64 to = random() % space_bytes;
          if (to != n.address) n.added = ++clock;
          n.region.set_address(n.address = to);
        }
        break;
      case 6:
        if (n.kind == MemoryRegion::Kind::alias)
          n.region.set_alias_offset(n.alias_offset = random() % space_bytes);
        else if (n.kind != MemoryRegion::Kind::ram)
          n.region.set_size(n.size = 1 + random() % (space_bytes / 2));
        break;
      case 7:
        if (n.kind == MemoryRegion::Kind::ram || n.kind == MemoryRegion::Kind::alias) n.region.set_read_only(n.read_only = random() % 2);
        break;
    }
  }
};

void compare(const Model& model, const AddressSpace& space) {
  const auto view = space.view();
  u64 end = 0;
  for (const FlatRange& r : view->ranges()) {
    CHECK(r.first >= end && r.last >= r.first);
    end = r.last + 1;
  }
  for (u64 at = 0; at < space_bytes + 16; at += 7) {
    const Model::Place expected = Model::resolve(model.nodes[0], at, false);
    const FlatRange* r = view->find(at);
    CHECK(bool(r) == bool(expected.node));
    if (!r) continue;
    CHECK(r->region == &expected.node->region);
    CHECK_EQ(r->offset + (at - r->first), expected.offset);
    CHECK_EQ(r->read_only, expected.read_only);
    CHECK((r->ram != nullptr) == (expected.node->kind == MemoryRegion::Kind::ram));
  }
}

}  // namespace

TEST(memory_random_topologies_resolve_as_the_rules_say) {
  for (unsigned seed = 0; seed < 12; seed++) {
    MachineLocked lock;
    Model model{seed};
    AddressSpace space{"space", model.nodes[0].region};
    for (int round = 0; round < 60; round++) {
      if (round % 3 == 0) {
        Transaction several;
        for (int i = 0; i < 5; i++) model.change();
      } else {
        model.change();
      }
      compare(model, space);
    }
  }
}
