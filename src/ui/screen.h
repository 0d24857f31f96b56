// What display devices show: for `screendump`, `info screen`, and the windows and remote screens to come. Main loop, machine lock held.
#pragma once

#include <string>
#include <vector>

#include "src/base/result.h"
#include "src/base/types.h"

namespace vmm::ui {

struct Picture {
  unsigned width = 0, height = 0;
  std::vector<u32> pixels;  // 0x00RRGGBB, rows from the top; width * height of them
};

// A display device derives from this; it is listed while it lives.
class Screen {
 public:
  Screen();
  virtual ~Screen();
  Screen(const Screen&) = delete;
  virtual Picture picture() = 0;  // as the guest has set it up now; an empty one if the display is off
  // Another number than before when the picture may have changed, so that nobody draws what stands still.
  virtual u64 generation() { return ++looks_; }
  virtual std::string text() { return {}; }             // lines of a text mode (UTF-8, "\n"); empty in graphics modes
  virtual std::string device_id() const { return {}; }  // for `screendump -device`

 private:
  u64 looks_ = 0;
};
const std::vector<Screen*>& all_screens();  // in order of creation
// The one with this id; the first one for an empty id. Null if there is none.
Screen* find_screen(std::string_view device_id);

Result<> write_ppm(const Picture& picture, const std::string& path);
Result<> write_png(const Picture& picture, const std::string& path);

}  // namespace vmm::ui
