// The operations on AMX tiles that kernels use, in plain C: to prove kernels on a CPU without tiles. Slow.
//
// Each thread has a configuration and eight tiles, zeros until one is loaded. What the CPU answers with an exception
// (Intel SDM volume 2: LDTILECFG, TILEZERO, TILELOADD, TILESTORED, TDPBUSD) ends the process here, with one line that says why.

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

namespace {

const int kTiles = 8, kRows = 16, kBytes = 64;

struct State {
  int configured;
  int rows[kTiles], width[kTiles];
  uint8_t data[kTiles][kRows][kBytes];
};

thread_local State state;

void Demand(bool holds, const char* operation, const char* what) {
  if (holds) return;
  fprintf(stderr, "emulated %s: %s\n", operation, what);
  abort();
}

void DemandTile(int tile, const char* operation) {
  Demand(state.configured, operation, "this thread has no configuration");
  Demand(0 <= tile && tile < kTiles && state.rows[tile] != 0, operation, "the tile is not configured");
}

}  // namespace

extern "C" {

void fxpress_ldtilecfg(const void* address) {
  uint8_t given[kBytes];
  memcpy(given, address, kBytes);
  Demand(given[0] == 1, "ldtilecfg", "the palette is not 1");
  Demand(given[1] == 0, "ldtilecfg", "it begins in the middle of a tile");
  memset(&state, 0, sizeof(state));
  for (int byte = 2; byte < kBytes; ++byte) {
    bool used = (byte >= 16 && byte < 16 + 2 * kTiles) || (byte >= 48 && byte < 48 + kTiles);
    Demand(used || given[byte] == 0, "ldtilecfg", "a reserved byte is not 0");
  }
  for (int tile = 0; tile < kTiles; ++tile) {
    int width = given[16 + 2 * tile] + 256 * given[17 + 2 * tile], rows = given[48 + tile];
    Demand(width <= kBytes && rows <= kRows, "ldtilecfg", "a tile is larger than 16 rows of 64 bytes");
    Demand((width == 0) == (rows == 0), "ldtilecfg", "a tile has rows without bytes, or bytes without rows");
    state.width[tile] = width;
    state.rows[tile] = rows;
  }
  state.configured = 1;
}

void fxpress_tilerelease() { memset(&state, 0, sizeof(state)); }

void fxpress_tilezero(uint8_t tile) {
  DemandTile(tile, "tilezero");
  memset(state.data[tile], 0, sizeof(state.data[tile]));
}

void fxpress_tileloadd64(uint8_t tile, const void* address, int64_t stride) {
  DemandTile(tile, "tileloadd");
  memset(state.data[tile], 0, sizeof(state.data[tile]));
  for (int row = 0; row < state.rows[tile]; ++row) {
    memcpy(state.data[tile][row], static_cast<const char*>(address) + row * stride, state.width[tile]);
  }
}

void fxpress_tilestored64(uint8_t tile, void* address, int64_t stride) {
  DemandTile(tile, "tilestored");
  for (int row = 0; row < state.rows[tile]; ++row) {
    memcpy(static_cast<char*>(address) + row * stride, state.data[tile][row], state.width[tile]);
  }
}

// sums[m][n] += x[m][k][i] * w[k][n][i] for i in 0..3: x without sign, w with, sums wrap.
void fxpress_tdpbusd(uint8_t sums, uint8_t x, uint8_t w) {
  DemandTile(sums, "tdpbusd");
  DemandTile(x, "tdpbusd");
  DemandTile(w, "tdpbusd");
  Demand(sums != x && sums != w && x != w, "tdpbusd", "two of its tiles are one");
  Demand(state.width[sums] % 4 == 0 && state.width[x] % 4 == 0 && state.width[w] % 4 == 0, "tdpbusd", "a tile has part of a word");
  Demand(state.rows[x] == state.rows[sums], "tdpbusd", "the rows of the sums are not those of the first factor");
  Demand(state.width[w] == state.width[sums], "tdpbusd", "the columns of the sums are not those of the second factor");
  Demand(state.width[x] == 4 * state.rows[w], "tdpbusd", "the words of the first factor are not the rows of the second");
  for (int m = 0; m < state.rows[sums]; ++m) {
    uint32_t row[kBytes / 4];
    memcpy(row, state.data[sums][m], kBytes);
    for (int k = 0; k < state.rows[w]; ++k) {
      const uint8_t* factors = &state.data[x][m][4 * k];
      const int8_t* weights = reinterpret_cast<const int8_t*>(state.data[w][k]);
      for (int n = 0; n < state.width[sums] / 4; ++n) {
        int32_t sum = 0;
        for (int i = 0; i < 4; ++i) sum += static_cast<int32_t>(factors[i]) * weights[4 * n + i];
        row[n] += static_cast<uint32_t>(sum);
      }
    }
    memcpy(state.data[sums][m], row, state.width[sums]);
  }
}

}  // extern "C"
