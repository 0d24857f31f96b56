// Rendering the topology to flat views, and publishing them.
#include <algorithm>

#include "src/base/log.h"
#include "src/memory/publish.h"
#include "src/memory/reader.h"

namespace vmm::memory {

namespace {
struct Topology {
  Mutex mutex;  // only the list: spaces come and go under the machine lock, but tests make some before there is a machine
  std::vector<AddressSpace*> spaces GUARDED_BY(mutex);
  unsigned depth = 0;    // of transactions
  bool changed = false;  // machine lock
  u64 generation = 0;

  static Topology& the() {
    static auto* topology = new Topology;
    return *topology;
  }
};
using Signed = __int128;
constexpr Signed end_of_space = Signed{1} << 64;
constexpr unsigned depth_limit = 64;  // a region that aliases its own container ends here
}  // namespace

// --- Rendering

struct ViewBuilder::Walk {
  FlatView& view;

  // [low, high) in addresses of the view; `base` is where the region's offset 0 would lie (negative for parts of aliases).
  void render(const MemoryRegion& region, Signed base, Signed low, Signed high, bool read_only, unsigned depth) {
    if (!region.enabled_ || depth > depth_limit) return;
    low = std::max(low, base);
    high = std::min(high, base + Signed(region.size_));
    if (low >= high) return;
    read_only |= region.read_only_;
    if (region.kind_ == MemoryRegion::Kind::alias) {
      if (region.alias_) render(*region.alias_, base - Signed(region.alias_offset_), low, high, read_only, depth + 1);
      return;
    }
    for (const MemoryRegion* child : region.children_) render(*child, base + Signed(child->address_), low, high, read_only, depth + 1);
    if (region.kind_ != MemoryRegion::Kind::container && region.kind_ != MemoryRegion::Kind::none) fill(region, base, low, high, read_only);
  }

  // What is free of [low, high) becomes the region's: the walk meets the highest priority first.
  void fill(const MemoryRegion& region, Signed base, Signed low, Signed high, bool read_only) {
    auto& ranges = view.ranges_;
    auto at = std::ranges::lower_bound(ranges, low, {}, [](const FlatRange& r) { return Signed(r.last); });
    while (low < high) {
      const Signed free_end = at == ranges.end() ? high : std::min(high, Signed(at->first));
      if (low < free_end) at = ranges.insert(at, make(region, base, low, free_end, read_only)) + 1;
      if (at == ranges.end()) return;
      low = Signed(at->last) + 1;
      ++at;
    }
  }

  static FlatRange make(const MemoryRegion& region, Signed base, Signed low, Signed high, bool read_only) {
    FlatRange range{.first = u64(low), .last = u64(high - 1), .region = const_cast<MemoryRegion*>(&region), .offset = u64(low - base)};
    const bool rom_device = region.kind_ == MemoryRegion::Kind::rom_device;
    if (region.ram_ && (!rom_device || region.romd_)) {
      range.ram = region.ram_.get();
      range.ram_offset = range.offset;
    }
    range.read_only = read_only || rom_device;
    return range;
  }

  void merge() {
    auto& ranges = view.ranges_;
    usize kept = 0;
    for (usize i = 0; i < ranges.size(); i++) {
      if (kept) {
        FlatRange& before = ranges[kept - 1];
        const FlatRange& r = ranges[i];
        const u64 length = r.first - before.first;
        if (before.region == r.region && before.last + 1 == r.first && before.offset + length == r.offset && before.ram == r.ram &&
            before.read_only == r.read_only) {
          before.last = r.last;
          continue;
        }
      }
      ranges[kept++] = ranges[i];
    }
    ranges.resize(kept);
  }
};

const MemoryRegion& ViewBuilder::effective_root(const MemoryRegion& root) {
  const MemoryRegion* at = &root;
  for (unsigned depth = 0; depth < depth_limit; depth++) {
    if (at->kind_ != MemoryRegion::Kind::container || !at->enabled_ || at->read_only_) break;
    const MemoryRegion* only = nullptr;
    for (const MemoryRegion* child : at->children_) {
      if (!child->enabled_) continue;
      if (only) return *at;
      only = child;
    }
    if (!only || only->kind_ != MemoryRegion::Kind::alias || !only->alias_ || only->read_only_) break;
    if (only->address_ || only->alias_offset_ || only->size_ != at->size_ || only->alias_->size_ > only->size_) break;
    at = only->alias_;
  }
  return *at;
}

std::shared_ptr<FlatView> ViewBuilder::render(const MemoryRegion& root) {
  auto view = std::make_shared<FlatView>();
  view->root_ = &root;
  Walk walk{*view};
  walk.render(root, 0, 0, end_of_space, false, 0);
  walk.merge();
  for (const FlatRange& range : view->ranges_) {
    if (!range.ram) continue;
    const auto& block = range.region->ram_;
    if (std::ranges::find(view->held_, block) == view->held_.end()) view->held_.push_back(block);
  }
  return view;
}

bool ViewBuilder::same(const FlatView& a, const FlatView& b) {
  return std::ranges::equal(a.ranges_, b.ranges_, [](const FlatRange& x, const FlatRange& y) {
    return x.first == y.first && x.last == y.last && x.region == y.region && x.offset == y.offset && x.ram == y.ram &&
           x.ram_offset == y.ram_offset && x.read_only == y.read_only;
  });
}

void ViewBuilder::publish(AddressSpace& space, std::shared_ptr<FlatView> view) {
  std::shared_ptr<const FlatView> next = std::move(view);
  space.view_.store(next.get(), std::memory_order_seq_cst);
  std::swap(space.current_, next);
  space.generation_.fetch_add(1, std::memory_order_release);
  retire(std::move(next));
}

const FlatRange* FlatView::find(u64 address) const {
  auto at = std::ranges::lower_bound(ranges_, address, {}, &FlatRange::last);
  return at != ranges_.end() && at->first <= address ? &*at : nullptr;
}

// --- Publishing

std::vector<AddressSpace*> address_spaces() {
  Topology& topology = Topology::the();
  Lock lock{topology.mutex};
  return topology.spaces;
}

bool is_shown(const MemoryRegion& root) {
  return std::ranges::any_of(address_spaces(), [&](AddressSpace* s) { return &s->root() == &root; });
}

void topology_changed() { Topology::the().changed = true; }

void publish_views() { ViewBuilder::publish_all(); }

void ViewBuilder::publish_all() {
  Topology& topology = Topology::the();
  topology.changed = false;
  std::vector<std::shared_ptr<FlatView>> rendered;
  std::vector<AddressSpace*> changed;
  for (AddressSpace* space : address_spaces()) {
    const MemoryRegion& root = effective_root(space->root());
    auto found = std::ranges::find_if(rendered, [&](auto& view) { return view->root_ == &root; });
    if (found == rendered.end()) {
      rendered.push_back(render(root));
      rendered.back()->generation_ = ++topology.generation;
      found = rendered.end() - 1;
    }
    if (same(*space->current_, **found)) continue;
    publish(*space, *found);
    changed.push_back(space);
  }
  for (AddressSpace* space : changed)
    for (auto& told : space->changed_) told();
}

Transaction::Transaction() {
  machine_lock.assert_held();
  Topology::the().depth++;
}
Transaction::~Transaction() {
  Topology& topology = Topology::the();
  if (--topology.depth == 0 && topology.changed) publish_views();
}

// --- Life of an address space

AddressSpace::AddressSpace(std::string name, MemoryRegion& root) : name_(std::move(name)), root_(root) {
  ViewBuilder::publish(*this, ViewBuilder::render(ViewBuilder::effective_root(root)));
  Topology& topology = Topology::the();
  Lock lock{topology.mutex};
  topology.spaces.push_back(this);
}

AddressSpace::~AddressSpace() {
  {
    Topology& topology = Topology::the();
    Lock lock{topology.mutex};
    std::erase(topology.spaces, this);
  }
  view_.store(nullptr, std::memory_order_seq_cst);
  retire(std::move(current_));
}

void AddressSpace::on_change(std::function<void()> changed) { changed_.push_back(std::move(changed)); }

std::shared_ptr<const FlatView> AddressSpace::view() const {
  ReadPin pin;
  return view_.load(std::memory_order_seq_cst)->shared_from_this();
}

}  // namespace vmm::memory
