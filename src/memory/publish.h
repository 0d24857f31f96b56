// Between regions, address spaces and the renderer of flat views. Machine lock held.
#pragma once

#include "src/memory/memory.h"

namespace vmm::memory {

void topology_changed();                  // views are rendered anew when the outermost Transaction ends
void publish_views();                     // now
bool is_shown(const MemoryRegion& root);  // root of some address space

struct ViewBuilder {
  // `root` as it stands, or the region that it is but another name of.
  static const MemoryRegion& effective_root(const MemoryRegion& root);
  static std::shared_ptr<FlatView> render(const MemoryRegion& root);
  static bool same(const FlatView& a, const FlatView& b);
  static void publish(AddressSpace& space, std::shared_ptr<FlatView> view);

  static void publish_all();

 private:
  struct Walk;
};

// In order of making; machine lock held.
std::vector<AddressSpace*> address_spaces();

}  // namespace vmm::memory
